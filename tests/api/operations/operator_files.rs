//! The dashboard, the alerts and the handbook name exactly the existing metrics and alerts.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::harness::TestServer;
use crate::support::scrape::Scrape;

const ALERTS: &str = include_str!("../../../ops/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../../ops/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../../ops/grafana-dashboard.json");
const HANDBOOK: &str = include_str!("../../../docs/operations.md");
/// Labels that Prometheus adds to each sample.
const ADDED_LABELS: [&str; 2] = ["instance", "job"];

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The metrics named in a text, each with the text behind its name.
fn metrics(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_name_char) {
        let name = &rest[start..];
        let end = name.find(|c| !is_name_char(c)).unwrap_or(name.len());
        let (name, behind) = name.split_at(end);
        if ["events_", "grpc_server_", "process_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            found.push((name, behind));
        }
        rest = behind;
    }
    found
}

fn alerts() -> BTreeSet<&'static str> {
    ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect()
}

/// Every query of the dashboard and of the alerts, with Grafana's variables filled in.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let panel_queries = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let alert_queries = ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    panel_queries
        .chain(alert_queries.map(str::to_owned))
        .map(|query| query.replace("$__rate_interval", "5m").replace("$instance", ".*"))
        .collect()
}

#[tokio::test]
async fn every_dashboard_and_alert_query_names_existing_metrics_and_labels() {
    let server = TestServer::start().await;
    let text = Scrape::of(&server).await.text;
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let queries = queries();
    assert!(queries.len() > alerts().len(), "{queries:?}");
    for query in &queries {
        for (name, behind) in metrics(query) {
            let sample = samples
                .iter()
                .find(|sample| {
                    sample.starts_with(&format!("{name}{{")) || sample.starts_with(&format!("{name} "))
                })
                .unwrap_or_else(|| panic!("no {name} for {query}"));
            let Some(selector) = behind.strip_prefix('{') else {
                continue;
            };
            for matcher in selector[..selector.find('}').unwrap()].split(',') {
                let label = &matcher[..matcher.find(['=', '!']).unwrap()];
                let exists = ADDED_LABELS.contains(&label) || sample.contains(&format!("{label}=\""));
                assert!(exists, "no label {label} for {query}");
            }
        }
    }
}

#[tokio::test]
#[cfg(target_os = "linux")] // elsewhere the process has no metrics
async fn the_handbook_lists_exactly_the_existing_metrics_and_alerts() {
    let server = TestServer::start().await;
    let scrape = Scrape::of(&server).await;
    let types = scrape
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let existing: BTreeSet<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    let help_lines = scrape.text.lines().filter(|line| line.starts_with("# HELP "));
    assert_eq!(help_lines.count(), existing.len(), "each metric has a HELP line");

    let table = |title: &str| {
        let (_, section) = HANDBOOK.split_once(title).unwrap();
        section.split("\n### ").next().unwrap().to_owned()
    };
    let rows = table("### Metrics");
    let cells = rows
        .lines()
        .filter_map(|row| row.strip_prefix("| `")?.split(" | ").next());
    let mut listed: Vec<&str> = cells.flat_map(metrics).map(|(name, _)| name).collect();
    listed.sort_unstable();
    assert_eq!(listed, existing.iter().copied().collect::<Vec<_>>());
    for (name, _) in metrics(HANDBOOK) {
        assert!(existing.contains(name), "{name}");
    }

    let rows = table("### Alerts");
    let rows: BTreeSet<&str> = rows
        .lines()
        .filter_map(|line| line.strip_prefix("| Events"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let alerts = alerts();
    let short: BTreeSet<&str> = alerts.iter().map(|name| &name["Events".len()..]).collect();
    assert_eq!(rows, short);
    for alert in alerts {
        assert!(
            ALERT_TESTS.contains(&format!("alertname=\"{alert}\"")),
            "{alert} has no test in alerts_test.yml"
        );
    }
}

/// Needs promtool, Prometheus' checker, which `script/test` fetches and names in `PROMTOOL`.
#[tokio::test]
async fn promtool_accepts_the_metrics_and_every_query_of_the_dashboard() {
    let Some(promtool) = std::env::var_os("PROMTOOL") else {
        eprintln!("not checked: PROMTOOL is not set");
        return;
    };
    let server = TestServer::start().await;
    let text = Scrape::of(&server).await.text;
    let mut child = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .await
        .unwrap();
    assert!(child.wait().await.unwrap().success());

    let rules: Vec<Value> = queries()
        .iter()
        .enumerate()
        .map(|(number, query)| json!({"record": format!("query:{number}"), "expr": query}))
        .collect();
    let rules = json!({"groups": [{"name": "queries", "rules": rules}]});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules.to_string()).unwrap();
    let checked = Command::new(&promtool)
        .args(["check", "rules"])
        .arg(file.path())
        .output()
        .await
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
