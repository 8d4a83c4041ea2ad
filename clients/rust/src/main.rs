//! Stores an event twice with one dedupe key, replays its session, and decodes an error: example [http://host:port]

use std::time::Duration;

use pb::event_service_client::EventServiceClient;
use pb::spirit_service_client::SpiritServiceClient;
use pb::stream_session_events_response::Item;
use pb::{CreateEventRequest, CreateSpiritRequest, GetEventRequest, OnDuplicate, StreamSessionEventsRequest};
use tonic::transport::Endpoint;
use tonic_types::StatusExt as _;

mod pb {
    tonic::include_proto!("elephantasm.events.v1");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "http://localhost:50051".to_owned());
    // The timeout limits each call until its reply begins, so it does not end streams.
    let channel = Endpoint::from_shared(address)?
        .timeout(Duration::from_secs(30))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .connect()
        .await?;
    let mut spirits = SpiritServiceClient::new(channel.clone());
    let mut events = EventServiceClient::new(channel);

    let ada = CreateSpiritRequest {
        name: "Ada".to_owned(),
        ..CreateSpiritRequest::default()
    };
    let created = spirits.create_spirit(ada).await?.into_inner();
    let spirit_id = created.spirit.unwrap_or_default().id;
    let hello = CreateEventRequest {
        spirit_id: spirit_id.clone(),
        session_id: Some("s1".to_owned()),
        event_type: "message.in".to_owned(),
        content: Some("Hello".to_owned()),
        dedupe_key: Some("hello-1".to_owned()),
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..CreateEventRequest::default()
    };
    for _ in 0..2 {
        // The second call finds the event of the first.
        let reply = events.create_event(hello.clone()).await?.into_inner();
        let outcome = reply.outcome().as_str_name();
        println!("{outcome} {}", reply.event.unwrap_or_default().sequence);
    }

    let replay = StreamSessionEventsRequest {
        spirit_id: spirit_id.clone(),
        session_id: "s1".to_owned(),
        ..StreamSessionEventsRequest::default()
    };
    let mut items = events.stream_session_events(replay).await?.into_inner();
    while let Some(item) = items.message().await? {
        if let Some(Item::Event(event)) = item.item {
            println!("replayed {} {}", event.sequence, event.content());
        }
    }

    let unknown = GetEventRequest {
        event_id: spirit_id,
        ..GetEventRequest::default()
    };
    if let Err(status) = events.get_event(unknown).await {
        let info = status.get_details_error_info();
        println!("refused {}", info.map(|info| info.reason).unwrap_or_default());
    }
    Ok(())
}
