//! Nothing is lost or changed without a word: the files that people bring, each with its outcome.

use crate::harness::{Server, TestDir};

use super::{contents, counts, stored};

/// Path of a file below `tests/cli/field`.
pub fn field(name: &str) -> String {
    format!("{}/tests/cli/field/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The outcome of an import of a file: counts of created events and bad lines, and the words that stderr must hold.
struct Case {
    file: &'static str,
    flags: &'static [&'static str],
    created: u64,
    bad: u64,
    words: &'static [&'static str],
}

#[rustfmt::skip]
const CASES: [Case; 14] = [
    Case { file: "big_ids.jsonl", flags: &[], created: 0, bad: 1,
        words: &["line 1: meta.channel_id is 1234567890123456789", "send it as a string"] },
    Case { file: "dup_keys.jsonl", flags: &[], created: 0, bad: 2,
        words: &["line 1: duplicate field `content`", "line 2: meta.k is given twice"] },
    Case { file: "bom.jsonl", flags: &[], created: 2, bad: 0, words: &[] },
    Case { file: "crlf_blank.jsonl", flags: &[], created: 2, bad: 0, words: &[] },
    Case { file: "plain.jsonl.gz", flags: &[], created: 2, bad: 0, words: &[] },
    Case { file: "array.json", flags: &[], created: 2, bad: 0, words: &[] },
    Case { file: "pretty.json", flags: &[], created: 2, bad: 0, words: &[] },
    Case { file: "lone_surrogate.jsonl", flags: &[], created: 2, bad: 1,
        words: &["line 2: holds half of a surrogate pair", "--repair"] },
    Case { file: "nul.jsonl", flags: &[], created: 2, bad: 1,
        words: &["line 2: holds the character U+0000", "--repair"] },
    Case { file: "truncated_last.jsonl", flags: &[], created: 1, bad: 1, words: &["line 2: is not JSON"] },
    Case { file: "glued.jsonl", flags: &[], created: 1, bad: 1, words: &["line 1: "] },
    Case { file: "times.jsonl", flags: &[], created: 9, bad: 2,
        words: &["line 3: occurred_at \"2025-10-17T14:23:15\" has no time zone", "--assume-utc", "line 10: "] },
    Case { file: "times.jsonl", flags: &["--assume-utc"], created: 10, bad: 1, words: &["line 10: "] },
    Case { file: "nul.jsonl", flags: &["--repair"], created: 3, bad: 0, words: &[] },
];

#[tokio::test]
async fn each_line_of_a_file_is_stored_as_it_is_or_named() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    for case in &CASES {
        let spirit = format!("{} {:?}", case.file, case.flags);
        let file = field(case.file);
        let arguments = [&["import", &file, "--spirit", &spirit][..], case.flags].concat();
        let first = server.command(&test_dir, &arguments).await;
        let first = first.exits_with(i32::from(case.bad > 0)).reports(case.words);
        let expected = format!(
            "created {}, duplicates 0 (of them different 0), bad lines {}",
            case.created, case.bad
        );
        assert!(counts(&first).1.starts_with(&expected), "{spirit}: {first:?}");
        let again = server.command(&test_dir, &arguments).await;
        let expected = format!("created 0, duplicates {} ", case.created);
        assert!(counts(&again).1.starts_with(&expected), "{spirit}: {again:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn equal_lines_of_two_files_are_two_events_and_each_file_is_repeatable() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let import = async |files: &[&str]| {
        let arguments = [&["import", "--spirit", "Ada"], files].concat();
        server.command(&test_dir, &arguments).await.exits_with(0)
    };
    let days = [field("day1.jsonl"), field("day2.jsonl")];
    let both = import(&[&days[0], &days[1]]).await;
    assert!(counts(&both).1.starts_with("created 4, duplicates 0"), "{both:?}");
    for day in &days {
        let again = import(&[day]).await;
        assert!(
            counts(&again).1.starts_with("created 0, duplicates 2"),
            "{again:?}"
        );
    }
    let events = stored(&server, counts(&both).0).await;
    assert_eq!(
        contents(&events),
        ["line 1", "yes", "line 2", "yes"],
        "in the order of the arguments"
    );
    let packed = test_dir.file(
        "day1.jsonl.zst",
        zstd::encode_all(&std::fs::read(&days[0]).unwrap()[..], 1).unwrap(),
    );
    let renamed = test_dir.file("other.jsonl", std::fs::read(&days[0]).unwrap());
    for same in [&[packed.as_str()][..], &["--source", "day1.jsonl", &renamed]] {
        let again = import(same).await;
        assert!(
            counts(&again).1.starts_with("created 0, duplicates 2"),
            "{same:?}: {again:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn repair_stores_replacement_characters_and_counts_them() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let file = field("lone_surrogate.jsonl");
    let import = ["import", &file, "--spirit", "Ada"];
    server.command(&test_dir, &import).await.exits_with(1);
    let repaired = server
        .command(&test_dir, &[&import[..], &["--repair"]].concat())
        .await
        .exits_with(0);
    let (spirit_id, counted) = counts(&repaired);
    assert_eq!(
        counted,
        "created 1, duplicates 2 (of them different 0), bad lines 0, characters replaced 1"
    );
    assert_eq!(
        contents(&stored(&server, spirit_id).await),
        ["line 1", "line 3", "cut here \u{fffd}\u{2026} errored"]
    );
    server.stop().await;
}
