//! Invalid purges, and purges of unknown spirits.

use elephantasm_events::grpc::pb::{
    ListPurgesRequest, PurgeEventsRequest, PurgeSpiritRequest, Retention, UpdateSpiritRequest,
};
use prost_types::{Duration, Timestamp};
use tonic::Code;

use super::{of_all, of_spirit, purged};
use crate::support::builders::{bad_fields, refused};
use crate::support::harness::TestServer;
use crate::support::validation::UNKNOWN_ID;

#[tokio::test]
async fn a_purge_has_exactly_one_valid_selection() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let cases: [(PurgeEventsRequest, &[&str]); 6] = [
        (of_spirit(&spirit_id), &["event_ids"]),
        (
            PurgeEventsRequest {
                author: Some("Ada".to_owned()),
                created_until: Some(Timestamp::default()),
                ..of_all(&spirit_id)
            },
            &["author", "all"],
        ),
        (
            PurgeEventsRequest {
                all: Some(false),
                ..of_spirit(&spirit_id)
            },
            &["all"],
        ),
        (
            PurgeEventsRequest {
                event_ids: vec![UNKNOWN_ID.to_owned(), "x".to_owned()],
                reason: Some(String::new()),
                ..of_spirit("y")
            },
            &["spirit_id", "reason", "event_ids[1]"],
        ),
        (
            PurgeEventsRequest {
                event_ids: vec![UNKNOWN_ID.to_owned(); 1_001],
                ..of_spirit(&spirit_id)
            },
            &["event_ids"],
        ),
        (
            PurgeEventsRequest {
                session_owner: Some("x".repeat(256)),
                deleted_until: Some(Timestamp {
                    seconds: 0,
                    nanos: -1,
                }),
                ..of_spirit(&spirit_id)
            },
            &["session_owner", "deleted_until"],
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(bad_fields(purged(&server, request).await), expected);
    }
    let unknown = purged(&server, of_all(UNKNOWN_ID)).await;
    refused(unknown, Code::NotFound, "SPIRIT_NOT_FOUND");
    let dry_run = PurgeEventsRequest {
        dry_run: true,
        ..of_all(UNKNOWN_ID)
    };
    refused(purged(&server, dry_run).await, Code::NotFound, "SPIRIT_NOT_FOUND");
    let request = PurgeSpiritRequest {
        spirit_id: "x".to_owned(),
        reason: Some("x".repeat(256)),
    };
    let invalid = server.purges().purge_spirit(request).await.map(|_| ());
    assert_eq!(bad_fields(invalid), ["spirit_id", "reason"]);
    let request = ListPurgesRequest {
        spirit_id: Some("x".to_owned()),
        page_size: 201,
        ..ListPurgesRequest::default()
    };
    assert_eq!(
        bad_fields(server.purges().list_purges(request).await),
        ["spirit_id", "page_size"]
    );
}

#[tokio::test]
async fn a_retention_is_set_whole_within_bounds_and_can_be_cleared() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let seconds = |seconds| {
        Some(Duration {
            seconds,
            nanos: 1_999,
        })
    };
    let update = async |retention: Option<Retention>, mask: &[&str]| {
        let request = UpdateSpiritRequest {
            spirit_id: spirit_id.clone(),
            retention,
            update_mask: crate::support::builders::mask(mask),
            ..UpdateSpiritRequest::default()
        };
        let response = server.spirits().update_spirit(request).await?;
        Ok::<_, tonic::Status>(response.into_inner().spirit.unwrap())
    };
    let given = Retention {
        max_age: seconds(3_600),
        history_max_age: seconds(86_400),
        ..Retention::default()
    };
    let spirit = update(Some(given), &[]).await.unwrap();
    let stored = spirit.retention.unwrap();
    assert_eq!(stored.max_age.unwrap().nanos, 1_000, "whole microseconds");
    assert_eq!((stored.deleted_max_age, spirit.revision), (None, 2));
    let replaced = Retention {
        deleted_max_age: seconds(7_200),
        ..Retention::default()
    };
    let spirit = update(Some(replaced), &["retention"]).await.unwrap();
    assert_eq!(spirit.retention.unwrap().max_age, None);
    assert_eq!(update(None, &["retention"]).await.unwrap().retention, None);
    let invalid = Retention {
        max_age: seconds(3_599),
        deleted_max_age: seconds(3_155_760_000),
        history_max_age: seconds(-1),
    };
    assert_eq!(
        bad_fields(update(Some(invalid), &[]).await),
        [
            "retention.max_age",
            "retention.deleted_max_age",
            "retention.history_max_age"
        ]
    );
}
