//! Runs the commands of `docs/tour.md` as printed against a real server.
//!
//! Needs grpcurl: the program that `GRPCURL` names, otherwise the one on the PATH. `script/test` installs it.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::harness::{Server, TestDir, finish};

const TOUR: &str = include_str!("../../docs/tour.md");
/// The address that the tour prints.
const PRINTED_ADDR: &str = "localhost:50051";
/// Start of the line that the script prints after each step; the exit code of the step follows.
const END_OF_STEP: &str = "--- end of step, exit code ";

/// A shell block and the output that is printed below it.
struct Step {
    commands: String,
    output: Vec<String>,
}

impl Step {
    fn expects_error(&self) -> bool {
        self.output.iter().any(|line| line.starts_with("Code: "))
    }
}

/// The steps of a page: each `sh` block with the `text` block that follows it, if any.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // Every second part is inside a fence.
    for block in page.split("```").skip(1).step_by(2) {
        let (language, content) = block.split_once('\n').unwrap();
        match language {
            "sh" => steps.push(Step {
                commands: content.to_owned(),
                output: Vec::new(),
            }),
            "text" => steps.last_mut().unwrap().output = content.lines().map(normalize).collect(),
            other => panic!("a block in {other:?} is neither commands nor output"),
        }
    }
    steps
}

/// A line without indentation and with single spaces: grpcurl's spacing depends on its version.
fn normalize(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns true if a line matches a pattern in which `…` stands for any text.
fn matches(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Asserts that the output has the expected lines, in their order.
fn assert_output(step: &Step, output: &str) {
    let lines: Vec<String> = output.lines().map(normalize).collect();
    let mut rest = lines.iter();
    for expected in step.output.iter().filter(|line| line.as_str() != "…") {
        assert!(
            rest.any(|line| matches(line, expected)),
            "{}\nno line {expected:?}, or not in this order, in\n{output}",
            step.commands
        );
    }
}

/// The path of grpcurl.
fn grpcurl() -> Option<PathBuf> {
    let on_path = || {
        env::split_paths(&env::var_os("PATH")?)
            .map(|dir| dir.join("grpcurl"))
            .find(|path| path.is_file())
    };
    env::var_os("GRPCURL").map(PathBuf::from).or_else(on_path)
}

/// Creates a directory of programs that take precedence over those on the PATH: the binary under test, and a
/// grpcurl that replaces the printed address by that of the server.
fn programs(test_dir: &TestDir, grpcurl: &Path, addr: &str) -> PathBuf {
    let dir = test_dir.path().join("programs");
    fs::create_dir(&dir).unwrap();
    symlink(
        env!("CARGO_BIN_EXE_elephantasm-events"),
        dir.join("elephantasm-events"),
    )
    .unwrap();
    let wrapper = dir.join("grpcurl");
    let script = format!(
        "#!/usr/bin/env bash\nexec '{}' \"${{@/{PRINTED_ADDR}/{addr}}}\"\n",
        grpcurl.display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Runs the steps in one shell; returns the output of each, stderr included, and its exit code.
async fn run(test_dir: &TestDir, programs: &Path, addr: &str, steps: &[Step]) -> Vec<(String, i32)> {
    let mut script = String::from("exec 2>&1\n");
    for step in steps {
        writeln!(script, "{}echo \"{END_OF_STEP}$?\"", step.commands).unwrap();
    }
    let path = env::join_paths(
        std::iter::once(programs.to_owned()).chain(env::split_paths(&env::var_os("PATH").unwrap())),
    );
    let exited = finish(
        Command::new("bash")
            .arg(test_dir.file("tour.sh", script))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", path.unwrap())
            .env("EVENTS_ADDR", addr)
            .kill_on_drop(true),
    )
    .await;
    let mut outputs = Vec::new();
    let mut rest = exited.stdout.as_str();
    while let Some((output, after)) = rest.split_once(END_OF_STEP) {
        let (code, after) = after.split_once('\n').unwrap();
        outputs.push((output.to_owned(), code.parse().unwrap()));
        rest = after;
    }
    assert_eq!(outputs.len(), steps.len(), "{exited:#?}");
    outputs
}

#[tokio::test]
async fn the_commands_of_the_tour_print_the_output_of_the_tour() {
    let Some(grpcurl) = grpcurl() else {
        // Not by eprintln!, which the output of a passing test does not show.
        writeln!(
            io::stderr(),
            "SKIPPED: the commands of docs/tour.md, since there is no grpcurl here"
        )
        .unwrap();
        return;
    };
    let steps = steps(TOUR);
    assert!(steps.len() > 10, "the tour has {} steps", steps.len());
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let programs = programs(&test_dir, &grpcurl, &server.addr);
    let outputs = run(&test_dir, &programs, &server.addr, &steps).await;
    for (step, (output, code)) in steps.iter().zip(&outputs) {
        assert_eq!(*code != 0, step.expects_error(), "{}\n{output}", step.commands);
        assert_output(step, output);
    }
    server.stop().await;
}

#[test]
fn an_ellipsis_matches_any_text_and_other_characters_match_themselves() {
    for (line, pattern, expected) in [
        ("same", "same", true),
        ("same and more", "same", false),
        ("id 7 end", "id … end", true),
        ("id 7 end", "id … 8 …", false),
        ("a b c", "…b…", true),
        ("a b c", "…b", false),
        ("", "…", true),
    ] {
        assert_eq!(matches(line, pattern), expected, "{line:?} against {pattern:?}");
    }
}

#[test]
#[should_panic(expected = "or not in this order")]
fn output_in_another_order_is_refused() {
    let page = "```sh\ntrue\n```\n```text\nfirst\nsecond\n```\n";
    assert_output(&steps(page)[0], "second\nfirst\n");
}
