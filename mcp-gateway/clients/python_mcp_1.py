"""Every tool with the Python client of the older protocol: python_mcp_1.py http URL | stdio COMMAND ..."""

import asyncio
import sys
from contextlib import AsyncExitStack

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client

import plan


async def main(transport, *target):
    async with AsyncExitStack() as stack:
        if transport == "http":
            read, write, _ = await stack.enter_async_context(streamablehttp_client(target[0]))
        else:
            server = StdioServerParameters(command=target[0], args=list(target[1:]))
            read, write = await stack.enter_async_context(stdio_client(server))
        session = await stack.enter_async_context(ClientSession(read, write))
        hello = await session.initialize()
        assert hello.serverInfo.name == "muster", hello

        async def list_tools():
            return [tool.name for tool in (await session.list_tools()).tools]

        async def call_tool(name, arguments):
            result = await session.call_tool(name, arguments)
            text = "".join(block.text for block in result.content if block.type == "text")
            return result.structuredContent, result.isError, text

        await plan.run(list_tools, call_tool)
        resources = await session.list_resources()
        assert any(str(resource.uri) == "muster://farm" for resource in resources.resources), resources
        assert {prompt.name for prompt in (await session.list_prompts()).prompts} >= {"overview", "delegate", "review"}


asyncio.run(main(*sys.argv[1:]))
