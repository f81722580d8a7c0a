//! Names that OpenTelemetry's semantic conventions give (general, RPC, CI/CD and process 1.44; generative AI and MCP
//! as of August 2026, where they are still in development). The one place that changes with them; names of our own
//! begin with `muster.` and live in the crate that owns what they name.

/// What kind of error ended it; absent when none did.
pub const ERROR_TYPE: &str = "error.type";
/// What an unknown or unbounded value is called.
pub const OTHER: &str = "_OTHER";

/// `grpc`.
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// Fully qualified, e.g. `muster.v1.SessionService/SpawnSession`.
pub const RPC_METHOD: &str = "rpc.method";
/// e.g. `OK`, `NOT_FOUND`.
pub const RPC_RESPONSE_STATUS_CODE: &str = "rpc.response.status_code";
/// Duration of a call as the server sees it.
pub const RPC_SERVER_CALL_DURATION: &str = "rpc.server.call.duration";
/// Duration of a call as the client sees it.
pub const RPC_CLIENT_CALL_DURATION: &str = "rpc.client.call.duration";
/// Buckets of both, in seconds.
pub const RPC_CALL_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// e.g. `tools/call`.
pub const MCP_METHOD_NAME: &str = "mcp.method.name";
/// Duration of an MCP request as the server sees it.
pub const MCP_SERVER_OPERATION_DURATION: &str = "mcp.server.operation.duration";
/// Its buckets, in seconds.
pub const MCP_BUCKETS: &[f64] =
    &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// `pipe` (stdio) or `tcp`.
pub const NETWORK_TRANSPORT: &str = "network.transport";
/// What an MCP tool that answers with `isError` has as its error type.
pub const TOOL_ERROR: &str = "tool_error";

/// `execute_tool`, `invoke_agent`, `chat`.
pub const GEN_AI_OPERATION_NAME: &str = "gen_ai.operation.name";
/// `anthropic`.
pub const GEN_AI_PROVIDER_NAME: &str = "gen_ai.provider.name";
/// e.g. `claude-code`.
pub const GEN_AI_AGENT_NAME: &str = "gen_ai.agent.name";
/// The model that was asked for.
pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
/// Name of a tool.
pub const GEN_AI_TOOL_NAME: &str = "gen_ai.tool.name";
/// The id a model gave to one use of a tool. Spans only.
pub const GEN_AI_TOOL_CALL_ID: &str = "gen_ai.tool.call.id";
/// claude's own session id. Spans only.
pub const GEN_AI_CONVERSATION_ID: &str = "gen_ai.conversation.id";
/// Duration of one life of an agent.
pub const GEN_AI_INVOKE_AGENT_DURATION: &str = "gen_ai.invoke_agent.duration";
/// Its buckets, in seconds; the last four are ours: an agent may work for hours.
pub const GEN_AI_INVOKE_AGENT_BUCKETS: &[f64] = &[
    0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2, 1638.4, 3600.0, 7200.0,
];
/// Tokens that went into a model, those from its cache included.
pub const GEN_AI_INPUT_TOKENS: &str = "gen_ai.client.inference.usage.input_tokens";
/// Tokens a model produced.
pub const GEN_AI_OUTPUT_TOKENS: &str = "gen_ai.client.inference.usage.output_tokens";
/// Of those that went in: read from the cache.
pub const GEN_AI_CACHE_READ_TOKENS: &str = "gen_ai.client.inference.usage.cache_read.input_tokens";
/// Of those that went in: written to the cache.
pub const GEN_AI_CACHE_WRITE_TOKENS: &str = "gen_ai.client.inference.usage.cache_write.input_tokens";

/// How many workers there are.
pub const CICD_WORKER_COUNT: &str = "cicd.worker.count";
/// `available`, `busy`, `offline`.
pub const CICD_WORKER_STATE: &str = "cicd.worker.state";
