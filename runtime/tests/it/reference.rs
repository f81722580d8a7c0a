use std::path::Path;

use muster_runtime::metrics::reference;

#[test]
fn the_page_of_metrics_says_what_every_role_measures() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    reference::check(&page, "every role", &reference::definitions()).expect("docs/metrics.md is true");
}

#[test]
fn a_stale_section_a_missing_one_and_a_double_name_are_told_apart() {
    let page = std::env::temp_dir().join(format!("muster-metrics-{}.md", std::process::id()));
    std::fs::write(&page, "<!-- a: begin -->\nold\n<!-- a: end -->\n").expect("written");
    let all = reference::definitions();
    let failed = |section: &str, definitions: &[_]| {
        reference::check(&page, section, definitions).expect_err("refused").to_string()
    };
    if std::env::var_os(reference::UPDATE).is_none() {
        assert!(failed("a", &all).contains("stale"));
    }
    assert!(failed("b", &all).contains("no section"));
    let twice = [all[0], all[0]];
    assert!(failed("a", &twice).contains("twice"));
    std::fs::write(&page, format!("<!-- a: begin -->\n{}<!-- a: end -->\n", reference::markdown(&all)))
        .expect("written");
    reference::check(&page, "a", &all).expect("current");
    std::fs::remove_file(&page).expect("removed");
}
