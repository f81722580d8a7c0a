// Every tool with the TypeScript client: typescript.mjs MODE http URL | MODE stdio COMMAND ...
//
// MODE: `auto` (the newest revision both know) or `legacy`. The client checks results against output schemas itself.
// CLIENTS: the folder its packages are installed in.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.CLIENTS}/package.json`);
const load = name => import(pathToFileURL(require.resolve(name)).href);
const { Client, StreamableHTTPClientTransport } = await load('@modelcontextprotocol/client');
const { StdioClientTransport } = await load('@modelcontextprotocol/client/stdio');

const [mode, kind, ...target] = process.argv.slice(2);
const steps = JSON.parse(readFileSync(new URL('steps.json', import.meta.url)));
const client = new Client({ name: 'muster-clients', version: '0' }, { versionNegotiation: { mode } });
const transport =
    kind === 'http'
        ? new StreamableHTTPClientTransport(new URL(target[0]))
        : new StdioClientTransport({ command: target[0], args: target.slice(1), stderr: 'inherit' });
await client.connect(transport);

const { tools } = await client.listTools();
const names = tools.map(tool => tool.name).sort();
assert.deepEqual(names, [...new Set(steps.map(step => step.tool))].sort());

const at = (value, path) => path.split('.').reduce((inner, name) => inner?.[name], value);
const kept = {};
for (const step of steps) {
    const fill = ([key, value]) => [key, typeof value === 'string' && value.startsWith('$') ? kept[value.slice(1)] : value];
    const given = Object.fromEntries(Object.entries(step.arguments).map(fill));
    const result = await client.callTool({ name: step.tool, arguments: given });
    const text = result.content.map(block => block.text ?? '').join('');
    const where = `${step.tool} ${JSON.stringify(step.arguments).slice(0, 80)}`;
    if (step.error) {
        assert.ok(result.isError && result.structuredContent === undefined, `${where}: ${text}`);
        assert.ok(text.includes(step.error), `${where}: ${text}`);
        continue;
    }
    assert.ok(!result.isError, `${where}: ${text}`);
    for (const [path, expected] of Object.entries(step.expect ?? {})) {
        assert.deepEqual(at(result.structuredContent, path), expected, `${where}: ${path} of ${text.slice(0, 2000)}`);
    }
    for (const [name, path] of Object.entries(step.keep ?? {})) kept[name] = at(result.structuredContent, path);
}
const { resources } = await client.listResources();
assert.ok(resources.some(resource => resource.uri === 'muster://farm'));
const { prompts } = await client.listPrompts();
assert.deepEqual(prompts.map(prompt => prompt.name).sort(), ['delegate', 'overview', 'review']);
await client.close();
