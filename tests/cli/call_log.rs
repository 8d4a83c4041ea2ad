//! The call log contains one line per call, with the ids that identify the call and without private data.

use std::process::Stdio;

use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{
    CountSpiritsRequest, CreateEventRequest, ListEventsRequest, StreamSessionEventsRequest,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::harness::{PATIENCE, Server, TestDir, event, eventually, finish, signal};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A request with this request id and a trace context.
fn with_request_id<T>(message: T, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-request-id", MetadataValue::try_from(id).unwrap());
    metadata.insert("traceparent", MetadataValue::from_static(PARENT));
    request
}

/// The line of the call log with this request id, of which there must be exactly one.
async fn line(server: &Server, id: &str) -> Value {
    let lines = eventually("the call is logged", async || {
        let log = server.log();
        let (complete_lines, _) = log.rsplit_once('\n')?;
        let lines = complete_lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines
            .filter(|line: &Value| line["fields"]["request_id"] == id)
            .collect();
        let calls: Vec<Value> = lines
            .into_iter()
            .filter(|line| line["target"] == "calls")
            .collect();
        (!calls.is_empty()).then_some(calls)
    })
    .await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

async fn json_server(test_dir: &TestDir) -> Server {
    Server::run(
        test_dir,
        &mut test_dir.command(&["serve", "--log-format", "json"]),
    )
    .await
}

#[tokio::test]
async fn each_call_is_logged_in_one_line_with_method_code_duration_and_ids() {
    let test_dir = TestDir::new();
    let server = json_server(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let mut events = server.events().await;
    events
        .create_event(with_request_id(event(&spirit_id), "good"))
        .await
        .unwrap();
    let bad = events
        .create_event(with_request_id(CreateEventRequest::default(), "bad"))
        .await;
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);
    let replay = StreamSessionEventsRequest {
        spirit_id,
        session_id: "s".to_owned(),
        ..StreamSessionEventsRequest::default()
    };
    let replay = events
        .stream_session_events(with_request_id(replay, "stream"))
        .await;
    let mut replay = replay.unwrap().into_inner();
    while replay.message().await.unwrap().is_some() {}

    for (id, method, code) in [
        ("good", "CreateEvent", "OK"),
        ("bad", "CreateEvent", "INVALID_ARGUMENT"),
        ("stream", "StreamSessionEvents", "OK"),
    ] {
        let line = line(&server, id).await;
        assert_eq!(line["level"], "INFO", "{line}");
        let fields = &line["fields"];
        assert_eq!(
            fields["method"],
            format!("/elephantasm.events.v1.EventService/{method}")
        );
        assert_eq!(fields["code"], code);
        assert_eq!(fields["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        let seconds = fields["seconds"].as_f64().unwrap();
        assert!((0.0..30.0).contains(&seconds), "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_call_log_names_the_api_key_whether_it_was_looked_up_or_cached() {
    let test_dir = TestDir::new();
    let create = ["key", "create", "--name", "ops", "--role", "admin"];
    let key = finish(&mut test_dir.command(&create)).await.exits_with(0).stdout;
    let bearer: MetadataValue<_> = format!("Bearer {}", key.trim()).parse().unwrap();
    let server = json_server(&test_dir).await;
    let mut spirits = SpiritServiceClient::new(server.channel().await);
    for id in ["first", "second", "third"] {
        let mut request = with_request_id(CountSpiritsRequest::default(), id);
        request.metadata_mut().insert("authorization", bearer.clone());
        spirits.count_spirits(request).await.unwrap();
        assert_eq!(line(&server, id).await["fields"]["key"], "ops");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_cause_of_an_internal_error_is_logged_and_hidden_from_the_client() {
    let test_dir = TestDir::new();
    let server = json_server(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    sqlx::query("alter table events rename to elsewhere")
        .execute(&mut test_dir.connect().await)
        .await
        .unwrap();
    let request = ListEventsRequest {
        spirit_id,
        ..ListEventsRequest::default()
    };
    let answer = server
        .events()
        .await
        .list_events(with_request_id(request, "job-7"))
        .await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(
        !status.message().contains("elsewhere") && !status.message().contains("42P01"),
        "{status:?}"
    );

    let call = line(&server, "job-7").await;
    assert_eq!(
        (&call["level"], &call["fields"]["code"]),
        (&"ERROR".into(), &"INTERNAL".into())
    );
    let log = server.log();
    let cause = log.lines().find(|line| line.contains("internal error")).unwrap();
    let cause: Value = serde_json::from_str(cause).unwrap();
    assert_eq!(cause["fields"]["request_id"], "job-7");
    assert!(
        cause["fields"]["cause"]
            .as_str()
            .unwrap()
            .contains("does not exist"),
        "{cause}"
    );
    server.stop().await;
}

#[tokio::test]
async fn successful_calls_can_be_excluded_from_the_log() {
    let test_dir = TestDir::new();
    let server = Server::run(
        &test_dir,
        &mut test_dir.command(&["serve", "--log", "info,calls=warn"]),
    )
    .await;
    server.spirit("Ada").await;
    server
        .events()
        .await
        .create_event(CreateEventRequest::default())
        .await
        .unwrap_err();
    sqlx::query("alter table spirits rename to elsewhere")
        .execute(&mut test_dir.connect().await)
        .await
        .unwrap();
    let mut spirits = SpiritServiceClient::new(server.channel().await);
    let answer = spirits
        .count_spirits(with_request_id(CountSpiritsRequest::default(), "job-8"))
        .await;
    assert_eq!(answer.unwrap_err().code(), Code::Internal);
    let log = eventually("the failed call is logged", async || {
        let log = server.log();
        log.contains("ERROR calls:").then_some(log)
    })
    .await;
    assert_eq!(log.matches(" calls: ").count(), 1, "{log}");
    assert!(
        log.contains("code=\"INTERNAL\"") && log.contains("request_id=\"job-8\""),
        "{log}"
    );
    server.stop().await;
}

#[tokio::test]
async fn the_log_is_complete_when_the_process_exits() {
    let test_dir = TestDir::new();
    let mut server = Server::start(&test_dir).await;
    for _ in 0..20 {
        server.spirit("Ada").await;
    }
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.0, Some(0));
    let log = server.log();
    assert_eq!(log.matches("SpiritService/CreateSpirit").count(), 20, "{log}");
    assert!(log.contains("shutting down"), "{log}");
}

#[tokio::test]
async fn an_unread_log_pipe_does_not_block_calls() {
    const LINES_THAT_FILL_A_PIPE: usize = 600;
    let test_dir = TestDir::new();
    let mut child = test_dir
        .command(&["serve"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    timeout(PATIENCE, stdout.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    let addr = line.trim_end().strip_prefix("listening on ").unwrap();
    let channel = Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .connect()
        .await;
    let mut spirits = SpiritServiceClient::new(channel.unwrap());
    for _ in 0..LINES_THAT_FILL_A_PIPE {
        let answer = timeout(PATIENCE, spirits.count_spirits(CountSpiritsRequest::default())).await;
        answer.expect("the call is answered in time").unwrap();
    }
    signal(child.id().unwrap(), "TERM").await;
    let status = timeout(PATIENCE, child.wait())
        .await
        .expect("the server exits in time")
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
