// Every tool with the Inspector's command line, and its strict look at the definitions: inspector.mjs ERA http URL | ERA stdio COMMAND ...
//
// ERA: `legacy` or `modern`. CLIENTS: the folder its packages are installed in. One process a call.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const [era, kind, ...target] = process.argv.slice(2);
const steps = JSON.parse(readFileSync(new URL('steps.json', import.meta.url)));
const inspector = `${process.env.CLIENTS}/node_modules/.bin/mcp-inspector`;
const server = kind === 'http' ? ['--server-url', target[0], '--transport', 'http'] : ['--transport', 'stdio'];
const command = kind === 'http' ? [] : ['--', ...target];

function inspect(...args) {
    const all = [inspector, '--cli', ...server, '--protocol-era', era, '--format', 'json', ...args, ...command];
    const run = spawnSync(process.execPath, all, { encoding: 'utf8', timeout: 180_000 });
    assert.equal(run.error, undefined, `${args.join(' ')}: ${run.error}`);
    return run;
}

const listed = inspect('--method', 'tools/list', '--strict');
assert.equal(listed.status, 0, listed.stderr);
assert.doesNotMatch(listed.stderr, /^(Warning|Error)|[1-9]\d* (warning|error)/m, listed.stderr);
const { tools } = JSON.parse(listed.stdout).result ?? JSON.parse(listed.stdout);
assert.deepEqual(tools.map(tool => tool.name).sort(), [...new Set(steps.map(step => step.tool))].sort());

const at = (value, path) => path.split('.').reduce((inner, name) => inner?.[name], value);
const kept = {};
for (const step of steps) {
    const fill = ([key, value]) => [key, typeof value === 'string' && value.startsWith('$') ? kept[value.slice(1)] : value];
    const given = Object.fromEntries(Object.entries(step.arguments).map(fill));
    const called = inspect('-q', '--method', 'tools/call', '--tool-name', step.tool, '--tool-args-json', JSON.stringify(given));
    const where = `${step.tool} ${JSON.stringify(step.arguments).slice(0, 80)}`;
    if (step.error) {
        assert.ok(`${called.stdout}${called.stderr}`.includes(step.error), `${where}: ${called.stdout}${called.stderr}`);
        continue;
    }
    assert.equal(called.status, 0, `${where}: ${called.stderr}${called.stdout}`);
    const answer = JSON.parse(called.stdout);
    const result = answer.result ?? answer;
    assert.ok(!result.isError && result.structuredContent, `${where}: ${called.stdout}`);
    for (const [path, expected] of Object.entries(step.expect ?? {})) {
        assert.deepEqual(at(result.structuredContent, path), expected, `${where}: ${path} of ${called.stdout.slice(0, 2000)}`);
    }
    for (const [name, path] of Object.entries(step.keep ?? {})) kept[name] = at(result.structuredContent, path);
}
