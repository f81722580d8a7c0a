use std::path::Path;

use muster_runtime::metrics::reference;

#[test]
fn the_page_of_metrics_says_what_it_measures() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    reference::check(&page, "mcp-gateway", &muster_mcp_gateway::metrics::definitions())
        .expect("docs/metrics.md is true");
}
