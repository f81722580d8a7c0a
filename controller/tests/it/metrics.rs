use std::path::Path;

use muster_runtime::metrics::reference;

#[test]
fn the_page_of_metrics_says_what_the_controller_measures() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    reference::check(&page, "controller", &muster_controller::metrics::definitions())
        .expect("docs/metrics.md is true");
}
