//! Everything of one person, over thousands of sessions: by the owner of sessions, then by the author of events.

use elephantasm_events::grpc::pb::{
    CreateEventRequest, ListSessionsRequest, PurgeEventsRequest, PurgeSelection, SessionFilter,
};

use super::{execute, of_spirit, purged, purges, stored};
use crate::support::builders::event_at;
use crate::support::harness::TestServer;
use crate::support::model::store;

/// Sessions of Ann, each with one event.
const SESSIONS: i64 = 2_000;
/// Events in the sessions of Bob, alternately by Ann and by Bob.
const OTHERS: i64 = 1_000;

/// Stores the events of both persons, Ann's sessions first.
async fn spirit_of_two_persons(server: &TestServer) -> String {
    let spirit_id = server.spirit().await;
    let requests: Vec<CreateEventRequest> = (0..SESSIONS + OTHERS)
        .map(|n| {
            let is_of_ann = n < SESSIONS;
            let session_id = if is_of_ann {
                format!("ann {n}")
            } else {
                format!("bob {}", n / 2)
            };
            CreateEventRequest {
                author: Some(["ann", "bob"][usize::from(!is_of_ann && n % 2 == 1)].to_owned()),
                ..event_at(&spirit_id, &session_id, n)
            }
        })
        .collect();
    for batch in requests.chunks(1_000) {
        store(&mut server.events(), batch.to_vec()).await;
    }
    execute(
        server,
        "update sessions set owner = left(session_id, 3) where spirit_id = $1::text::uuid",
        &spirit_id,
    )
    .await;
    spirit_id
}

/// The number of sessions with this owner on the first page, those without events included.
async fn sessions_of(server: &TestServer, spirit_id: &str, owner: &str) -> usize {
    let request = ListSessionsRequest {
        spirit_id: spirit_id.to_owned(),
        filter: Some(SessionFilter {
            owner: Some(owner.to_owned()),
            include_empty: true,
            ..SessionFilter::default()
        }),
        ..ListSessionsRequest::default()
    };
    let page = server.sessions().list_sessions(request).await.unwrap();
    page.into_inner().sessions.len()
}

/// The number of events that a purge would remove.
async fn counted(server: &TestServer, request: &PurgeEventsRequest) -> i64 {
    let dry_run = PurgeEventsRequest {
        dry_run: true,
        ..request.clone()
    };
    purged(server, dry_run).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_one_person_is_counted_and_then_removed_by_owner_and_by_author() {
    let server = TestServer::start().await;
    let spirit_id = spirit_of_two_persons(&server).await;
    let by_owner = PurgeEventsRequest {
        session_owner: Some("ann".to_owned()),
        ..of_spirit(&spirit_id)
    };
    let by_author = PurgeEventsRequest {
        author: Some("ann".to_owned()),
        ..of_spirit(&spirit_id)
    };
    assert_eq!(counted(&server, &by_owner).await, SESSIONS);
    assert_eq!(counted(&server, &by_author).await, SESSIONS + OTHERS / 2);
    let before = stored(&server, &spirit_id).await;
    assert!(
        before.into_iter().eq(1..=SESSIONS + OTHERS),
        "a dry run removes nothing"
    );

    assert_eq!(purged(&server, by_owner).await.unwrap().1, SESSIONS);
    assert_eq!(sessions_of(&server, &spirit_id, "ann").await, 0);
    assert_eq!(sessions_of(&server, &spirit_id, "bob").await, 50, "a full page");
    assert_eq!(counted(&server, &by_author).await, OTHERS / 2);
    assert_eq!(purged(&server, by_author).await.unwrap().1, OTHERS / 2);
    let of_bob = (SESSIONS + 1..=SESSIONS + OTHERS).filter(|sequence| sequence % 2 == 0);
    assert!(stored(&server, &spirit_id).await.into_iter().eq(of_bob));

    let listed = purges(&server, &spirit_id).await;
    let listed = listed.iter().map(|purge| (purge.selection(), purge.purged_count));
    let expected = [
        (PurgeSelection::Author, OTHERS / 2),
        (PurgeSelection::SessionOwner, SESSIONS),
    ];
    assert!(listed.eq(expected));
}
