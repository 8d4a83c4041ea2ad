//! Checks after the stress test: the stored rows must match the answers that callers got.

use std::collections::{HashMap, HashSet};

use sqlx::FromRow;

use super::{CREATES, Kind, Outcome, SPIRITS, Sent};
use crate::support::harness::TestServer;

/// Asserts that the stored rows match every answer that a caller waited for.
pub(super) async fn rows_match_answers(server: &TestServer, all: &[Sent]) {
    let rows = rows(server).await;
    spirits_have_no_gaps(server, &rows).await;
    answers_match_rows(all, &rows);
}

#[derive(FromRow)]
struct Row {
    id: String,
    spirit_id: String,
    sequence: i64,
    content: String,
    dedupe_key: Option<String>,
}

async fn rows(server: &TestServer) -> Vec<Row> {
    sqlx::query_as(
        "select id::text, spirit_id::text, sequence, content, dedupe_key
         from events
         order by spirit_id, sequence",
    )
    .fetch_all(&mut server.database.connect().await)
    .await
    .unwrap()
}

/// Asserts that every spirit has the sequences from 1 to its last, and each dedupe key at most once.
async fn spirits_have_no_gaps(server: &TestServer, rows: &[Row]) {
    let last: Vec<(String, i64)> = sqlx::query_as("select id::text, last_sequence from spirits")
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap();
    assert_eq!(last.len(), SPIRITS);
    for (spirit_id, last) in last {
        let of_spirit = rows.iter().filter(|row| row.spirit_id == spirit_id);
        let sequences: Vec<i64> = of_spirit.map(|row| row.sequence).collect();
        assert_eq!(sequences, (1..=last).collect::<Vec<_>>(), "of {spirit_id}");
    }
    let mut keys = HashSet::new();
    for row in rows {
        let key = row.dedupe_key.as_ref();
        assert!(
            key.is_none_or(|key| keys.insert((&row.spirit_id, key))),
            "dedupe key {key:?} is stored twice"
        );
    }
}

fn answers_match_rows(all: &[Sent], rows: &[Row]) {
    let by_content: HashMap<&str, &Row> = rows.iter().map(|row| (row.content.as_str(), row)).collect();
    assert_eq!(by_content.len(), rows.len(), "a create is stored twice");
    let by_id: HashMap<&str, &Row> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
    let mut matched = 0;
    for Sent { kind, items } in all {
        let mut last: HashMap<&str, i64> = HashMap::new();
        let mut present = 0;
        for (request, outcome) in items {
            let row = by_content.get(request.content()).copied();
            match (outcome, row) {
                (Outcome::Stored { id, sequence }, Some(row)) => {
                    assert_eq!((&row.id, row.sequence), (id, *sequence), "{request:?}");
                    assert_eq!(row.dedupe_key, request.dedupe_key);
                }
                (Outcome::Duplicate { id }, None) => {
                    let holder = by_id[id.as_str()];
                    assert_eq!(
                        (&holder.spirit_id, &holder.dedupe_key),
                        (&request.spirit_id, &request.dedupe_key)
                    );
                }
                (Outcome::Refused, None) | (Outcome::Unknown, _) => {}
                _ => panic!("answered {outcome:?}, stored: {}, {request:?}", row.is_some()),
            }
            let Some(row) = row else { continue };
            matched += 1;
            present += 1;
            assert_eq!(row.spirit_id, request.spirit_id);
            let before = last.insert(&request.spirit_id, row.sequence).unwrap_or_default();
            assert!(
                *kind == Kind::Other || before < row.sequence,
                "out of order: {request:?}"
            );
        }
        assert!(
            *kind != Kind::Atomic || present == 0 || present == items.len(),
            "{present} of {} items of an atomic batch",
            items.len()
        );
    }
    assert_eq!(matched, rows.len(), "a row is stored that no caller sent");
}

/// Asserts that every kind of answer occurred often enough for the test to be meaningful.
pub(super) fn every_outcome_occurred(all: &[Sent]) {
    let count = |is: fn(&Outcome) -> bool| {
        let outcomes = all
            .iter()
            .flat_map(|sent| &sent.items)
            .map(|(_, outcome)| outcome);
        outcomes.filter(|outcome| is(outcome)).count()
    };
    let counts = [
        count(|outcome| matches!(outcome, Outcome::Stored { .. })),
        count(|outcome| matches!(outcome, Outcome::Duplicate { .. })),
        count(|outcome| matches!(outcome, Outcome::Refused)),
        count(|outcome| matches!(outcome, Outcome::Unknown)),
    ];
    assert!(counts.iter().sum::<usize>() >= CREATES);
    assert!(counts.iter().all(|count| *count > CREATES / 50), "{counts:?}");
}
