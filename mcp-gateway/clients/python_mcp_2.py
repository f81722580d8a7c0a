"""Every tool with the Python client of both eras: python_mcp_2.py MODE http URL | MODE stdio COMMAND ...

MODE: `auto` (the newest revision both know) or `legacy`.
"""

import asyncio
import sys

from mcp import Client, StdioServerParameters

import plan


async def main(mode, transport, *target):
    server = target[0] if transport == "http" else StdioServerParameters(command=target[0], args=list(target[1:]))
    async with Client(server, mode=mode) as client:
        newest = client.protocol_version == "2026-07-28"
        assert newest == (mode == "auto"), client.protocol_version

        async def list_tools():
            return [tool.name for tool in (await client.list_tools()).tools]

        async def call_tool(name, arguments):
            result = await client.call_tool(name, arguments)
            text = "".join(block.text for block in result.content if block.type == "text")
            return result.structured_content, result.is_error, text

        await plan.run(list_tools, call_tool)
        resources = await client.list_resources()
        assert any(str(resource.uri) == "muster://farm" for resource in resources.resources), resources
        assert {prompt.name for prompt in (await client.list_prompts()).prompts} >= {"overview", "delegate", "review"}


asyncio.run(main(*sys.argv[1:]))
