//! The sources of an import: files, folders and their names.

use std::fs;

use tokio::process::Command;

use crate::harness::{Server, TestDir, finish};

use super::{contents, counts, line, stored};

#[tokio::test]
async fn a_folder_is_read_in_the_order_of_names_and_its_other_files_are_counted() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let folder = test_dir.path().join("logs");
    fs::create_dir_all(folder.join("b/c")).unwrap();
    // Equal names in different folders are different sources.
    for (file, content) in [
        ("b/c/day.jsonl", "2"),
        ("b/day.NDJSON", "3"),
        ("a.json", "1"),
        ("c.jsonl", "4"),
    ] {
        fs::write(folder.join(file), line(content) + "\n" + &line("yes")).unwrap();
    }
    fs::write(folder.join("notes.txt"), "not read").unwrap();
    let folder = folder.to_str().unwrap();
    let import = ["import", folder, "--spirit", "Ada"];
    let first = server.command(&test_dir, &import).await.exits_with(0);
    let first = first.reports(&["1 file of another kind is not read: ", "notes.txt"]);
    let (spirit_id, counted) = counts(&first);
    assert!(counted.starts_with("created 8, duplicates 0"), "{first:?}");
    assert_eq!(
        contents(&stored(&server, spirit_id).await),
        ["1", "yes", "2", "yes", "3", "yes", "4", "yes"]
    );
    let again = server.command(&test_dir, &import).await.exits_with(0);
    assert!(
        counts(&again).1.starts_with("created 0, duplicates 8"),
        "{again:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn sources_whose_keys_would_be_mixed_up_are_refused() {
    let test_dir = TestDir::new();
    fs::create_dir(test_dir.path().join("other")).unwrap();
    let files = ["day.jsonl", "other/day.jsonl", "day.jsonl.gz"].map(|name| test_dir.file(name, ""));
    for (arguments, word) in [
        (vec![&files[0], &files[1]], "have the same name, day.jsonl"),
        (vec![&files[0], &files[2]], "have the same name, day.jsonl"),
    ] {
        let names = arguments.into_iter().map(String::as_str);
        let arguments: Vec<&str> = ["import", "--spirit", "Ada"].into_iter().chain(names).collect();
        finish(&mut test_dir.command(&arguments))
            .await
            .exits_with(2)
            .reports(&[word]);
    }
    let named = ["import", &files[0], "-", "--spirit", "Ada", "--source", "x"];
    finish(&mut test_dir.command(&named))
        .await
        .exits_with(2)
        .reports(&["--source names one source"]);
}

#[tokio::test]
async fn a_named_pipe_is_read_like_a_file() {
    let test_dir = TestDir::new();
    let pipe = test_dir.path().join("pipe.jsonl");
    let pipe = pipe.to_str().unwrap();
    assert!(Command::new("mkfifo").arg(pipe).status().await.unwrap().success());
    let text = line("one") + "\n" + &line("two");
    let written = tokio::fs::write(pipe, &text);
    let mut import = test_dir.command(&["import", pipe, "--spirit", "Ada", "--dry-run"]);
    let (written, imported) = tokio::join!(written, finish(&mut import));
    written.unwrap();
    let imported = imported.exits_with(0);
    assert!(
        imported.stdout.starts_with("dry run: events 2, bad lines 0;"),
        "{imported:?}"
    );
}
