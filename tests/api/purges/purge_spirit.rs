//! `PurgeSpirit` and `ListPurges`.

use elephantasm_events::grpc::pb::{
    GetSpiritRequest, ListPurgesRequest, Purge, PurgeSelection, PurgeSpiritRequest, RestoreSpiritRequest,
    UpdateSessionRequest,
};
use tonic::{Code, Status};

use super::{of_all, of_session, purged, purges, stored};
use crate::support::builders::{create, event, event_at, insert_events, refused};
use crate::support::harness::{TestServer, eventually};
use crate::support::live::{beginning, delete_spirit, watch};

async fn purged_spirit(server: &TestServer, spirit_id: &str) -> Result<i64, Status> {
    let request = PurgeSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        reason: Some("left".to_owned()),
    };
    let mut items = server.purges().purge_spirit(request).await?.into_inner();
    loop {
        let item = items.message().await?.expect("an item before the end");
        if item.done {
            return Ok(item.purged_count);
        }
    }
}

/// The number of rows of each table that belong to the spirit.
async fn rows(server: &TestServer, spirit_id: &str) -> [i64; 4] {
    let (spirits, events, sessions, changes) = sqlx::query_as(
        "select
             (select count(*) from spirits where id = $1::text::uuid),
             (select count(*) from events where spirit_id = $1::text::uuid),
             (select count(*) from sessions where spirit_id = $1::text::uuid),
             (select count(*) from changes where spirit_id = $1::text::uuid)",
    )
    .bind(spirit_id)
    .fetch_one(&mut server.database.connect().await)
    .await
    .unwrap();
    [spirits, events, sessions, changes]
}

#[tokio::test]
async fn a_purged_spirit_leaves_nothing_but_its_purges() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for n in 0..3 {
        create(&mut server.events(), event_at(&spirit_id, "s", n)).await;
    }
    let request = UpdateSessionRequest {
        spirit_id: spirit_id.clone(),
        session_id: "empty".to_owned(),
        title: Some("titled".to_owned()),
        ..UpdateSessionRequest::default()
    };
    server.sessions().update_session(request).await.unwrap();
    let live = purged_spirit(&server, &spirit_id).await;
    refused(live, Code::FailedPrecondition, "SPIRIT_NOT_DELETED");
    assert_eq!(purges(&server, &spirit_id).await, []);
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    delete_spirit(&server, &spirit_id).await;
    assert_eq!(purged_spirit(&server, &spirit_id).await.unwrap(), 3);
    assert_eq!(rows(&server, &spirit_id).await, [0; 4]);
    while let Ok(Some(_)) = watcher.next().await {}

    let request = GetSpiritRequest {
        spirit_id: spirit_id.clone(),
        include_deleted: true,
    };
    let missing = server.spirits().get_spirit(request).await;
    refused(missing, Code::NotFound, "SPIRIT_NOT_FOUND");
    let create = server.events().create_event(event(&spirit_id)).await;
    refused(create, Code::NotFound, "SPIRIT_NOT_FOUND");
    let again = purged_spirit(&server, &spirit_id).await;
    refused(again, Code::NotFound, "SPIRIT_NOT_FOUND");
    let [purge] = &purges(&server, &spirit_id).await[..] else {
        panic!("not one purge")
    };
    assert_eq!(purge.selection(), PurgeSelection::Spirit);
    assert_eq!((purge.purged_count, purge.reason()), (3, "left"));
    assert!(purge.finished_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spirit_that_is_restored_between_two_steps_is_purged_no_further() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, 20_000).await;
    delete_spirit(&server, &spirit_id).await;
    let request = PurgeSpiritRequest {
        spirit_id: spirit_id.clone(),
        reason: None,
    };
    let mut items = server.purges().purge_spirit(request).await.unwrap().into_inner();
    items.message().await.unwrap().unwrap();
    let request = RestoreSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..RestoreSpiritRequest::default()
    };
    server.spirits().restore_spirit(request).await.unwrap();
    let ended = loop {
        match items.message().await {
            Ok(item) => assert!(!item.unwrap().done),
            Err(status) => break status,
        }
    };
    refused(
        Err::<(), _>(ended),
        Code::FailedPrecondition,
        "SPIRIT_NOT_DELETED",
    );
    let left = stored(&server, &spirit_id).await.len();
    assert!(left > 0 && left < 20_000, "{left}");
    assert_eq!(purges(&server, &spirit_id).await[0].finished_at, None);
}

#[tokio::test]
async fn list_purges_pages_over_all_spirits_newest_first() {
    let server = TestServer::start().await;
    let mut expected = Vec::new();
    for _ in 0..2 {
        let spirit_id = server.spirit().await;
        create(&mut server.events(), event(&spirit_id)).await;
        for request in [of_session(&spirit_id, "x"), of_all(&spirit_id)] {
            expected.insert(0, purged(&server, request).await.unwrap().0);
        }
    }
    let mut request = ListPurgesRequest {
        page_size: 3,
        ..ListPurgesRequest::default()
    };
    let mut listed: Vec<Purge> = Vec::new();
    loop {
        let page = server.purges().list_purges(request.clone()).await.unwrap();
        let page = page.into_inner();
        listed.extend(page.purges);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let ids: Vec<&String> = listed.iter().map(|purge| &purge.purge_id).collect();
    assert_eq!(ids, expected.iter().collect::<Vec<_>>());
    request.spirit_id = Some(listed[0].spirit_id.clone());
    request.page_token = "x".to_owned();
    refused(
        server.purges().list_purges(request).await,
        Code::InvalidArgument,
        "INVALID_CURSOR",
    );
    eventually("the purges are listed as complete", async || {
        listed
            .iter()
            .all(|purge| purge.finished_at.is_some())
            .then_some(())
    })
    .await;
}
