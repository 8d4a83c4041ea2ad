//! Settings that are durations, and their former names, which were in seconds.

use crate::harness::{TestDir, finish};

/// Options that are durations, each with its variable, former option and former variable.
const DURATIONS: [[&str; 4]; 7] = [
    [
        "--drain-timeout",
        "EVENTS_DRAIN_TIMEOUT",
        "--drain-seconds",
        "EVENTS_DRAIN_SECONDS",
    ],
    [
        "--call-timeout",
        "EVENTS_CALL_TIMEOUT",
        "--call-seconds",
        "EVENTS_CALL_SECONDS",
    ],
    [
        "--statement-timeout",
        "EVENTS_STATEMENT_TIMEOUT",
        "--statement-timeout-seconds",
        "EVENTS_STATEMENT_TIMEOUT_SECONDS",
    ],
    [
        "--flush-timeout",
        "EVENTS_FLUSH_TIMEOUT",
        "--flush-timeout-seconds",
        "EVENTS_FLUSH_TIMEOUT_SECONDS",
    ],
    [
        "--heartbeat-interval",
        "EVENTS_HEARTBEAT_INTERVAL",
        "--heartbeat-seconds",
        "EVENTS_HEARTBEAT_SECONDS",
    ],
    [
        "--stall-timeout",
        "EVENTS_STALL_TIMEOUT",
        "--stall-seconds",
        "EVENTS_STALL_SECONDS",
    ],
    [
        "--read-lag-max",
        "EVENTS_READ_LAG_MAX",
        "--read-lag-seconds",
        "EVENTS_READ_LAG_SECONDS",
    ],
];

#[tokio::test]
async fn a_duration_takes_a_unit_or_plain_seconds_under_its_current_and_its_former_name() {
    for [option, variable, former_option, former_variable] in DURATIONS {
        for value in ["30s", "1m", "30"] {
            let test_dir = TestDir::new();
            for name in [option, former_option] {
                finish(&mut test_dir.command(&[name, value, "--help"]))
                    .await
                    .exits_with(0);
            }
        }
        for value in ["1000h", "3600000", "soon"] {
            let test_dir = TestDir::new();
            for name in [option, former_option] {
                let exited = finish(&mut test_dir.command(&[name, value])).await;
                exited.exits_with(2).reports(&[option, value]);
            }
            for name in [variable, former_variable] {
                let exited = finish(test_dir.command(&[]).env(name, value)).await;
                exited.exits_with(2).reports(&[option, value]);
            }
        }
    }
}

#[tokio::test]
async fn the_variable_of_a_duration_takes_precedence_over_its_former_variable() {
    for [_, variable, _, former_variable] in DURATIONS {
        let test_dir = TestDir::new();
        let mut command = test_dir.command(&["--help"]);
        command.env(former_variable, "11");
        let help = finish(&mut command).await.exits_with(0).stdout;
        assert!(help.contains(&format!("[env: {former_variable}=11]")), "{help}");
        command.env(variable, "22s");
        let help = finish(&mut command).await.exits_with(0).stdout;
        assert!(help.contains(&format!("[env: {variable}=22s]")), "{help}");
        assert!(!help.contains(former_variable), "{help}");
    }
}
