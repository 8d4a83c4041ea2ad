//! Property test of conversion: any create is stored unchanged or refused with its bad fields named.

use elephantasm_events::domain::meta::Meta;
use elephantasm_events::grpc::object_of_struct;
use elephantasm_events::grpc::pb::{CreateEventRequest, Event};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost_types::{Struct, Timestamp, Value, value::Kind};
use tonic::Code;

use crate::support::builders::{bad_fields, create, event, number, object};
use crate::support::harness::TestServer;
use crate::support::validation::list_of;

const CASES: u32 = 300;

/// Mostly valid texts; some have an invalid length or unusual characters.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z.]{1,20}",
        3 => "\\PC{1,50}",
        1 => ".{0,300}",
        1 => prop::collection::vec(any::<char>(), 0..60).prop_map(String::from_iter),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        20 => texts().prop_map(Kind::StringValue),
        20 => prop::num::f64::NORMAL.prop_map(Kind::NumberValue),
        5 => (-1_000_000i32..1_000_000).prop_map(|n| Kind::NumberValue(n.into())),
        5 => any::<bool>().prop_map(Kind::BoolValue),
        5 => Just(Kind::NullValue(0)),
        1 => any::<f64>().prop_map(Kind::NumberValue),
        1 => any::<i32>().prop_map(Kind::NullValue),
    ];
    let leaf = prop_oneof![
        50 => leaf.prop_map(|kind| Value { kind: Some(kind) }),
        1 => Just(Value { kind: None }),
    ];
    leaf.prop_recursive(6, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(list_of),
            structs_of(inner).prop_map(|fields| Value {
                kind: Some(Kind::StructValue(fields)),
            }),
        ]
    })
}

fn structs_of(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Struct> {
    prop::collection::btree_map(texts(), values, 0..5).prop_map(|fields| Struct { fields })
}

fn times() -> impl Strategy<Value = Timestamp> {
    let good = (-62_135_596_800i64..253_402_300_800, 0..1_000_000_000);
    prop_oneof![10 => good, 1 => (any::<i64>(), any::<i32>())]
        .prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

prop_compose! {
    fn creates()(
        (event_type, content, meta_summary, session_id) in
            (texts(), prop::option::weighted(0.95, texts()), prop::option::of(texts()), prop::option::of(texts())),
        (role, author, source_uri, dedupe_key) in
            (prop::option::of(texts()), prop::option::of(texts()), prop::option::of(texts()), prop::option::of(texts())),
        occurred_at in prop::option::of(times()),
        meta in prop::option::of(structs_of(values())),
        importance_score in prop::option::of(prop_oneof![10 => 0.0..=1.0f64, 1 => any::<f64>()]),
        on_duplicate in prop_oneof![10 => 0..=2i32, 1 => any::<i32>()],
    ) -> CreateEventRequest {
        CreateEventRequest {
            spirit_id: String::new(),
            event_type, content, meta_summary, occurred_at, session_id, role, author, meta, source_uri,
            dedupe_key, importance_score, on_duplicate,
            expected_last_sequence: None,
            expected_session_last_sequence: None,
            reply_view: 0,
        }
    }
}

/// The event that the request must be stored as. Times are truncated to microseconds; fields that the service
/// fills in are taken from `event`.
fn expected_event(request: CreateEventRequest, event: &Event) -> Event {
    let truncated = request.occurred_at.map(|Timestamp { seconds, nanos }| Timestamp {
        seconds,
        nanos: nanos - nanos % 1_000,
    });
    let has_derived_key = request.dedupe_key.is_none() && request.source_uri.is_some();
    Event {
        spirit_id: Some(request.spirit_id),
        event_type: Some(request.event_type),
        content: request.content,
        meta_summary: request.meta_summary,
        occurred_at: truncated.or(event.occurred_at),
        session_id: request.session_id,
        role: request.role,
        author: request.author,
        meta: Some(request.meta.unwrap_or_default()),
        source_uri: request.source_uri,
        dedupe_key: if has_derived_key {
            event.dedupe_key.clone()
        } else {
            request.dedupe_key
        },
        importance_score: request.importance_score,
        ..event.clone()
    }
}

#[test]
fn any_create_is_stored_unchanged_or_refused_with_its_bad_fields_named() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let property = |request: CreateEventRequest| {
        runtime.block_on(async {
            let request = CreateEventRequest {
                spirit_id: server.spirit().await,
                ..request
            };
            match server.events().create_event(request.clone()).await {
                Ok(response) => {
                    let created = response.into_inner().event.unwrap();
                    let get = elephantasm_events::grpc::pb::GetEventRequest {
                        event_id: created.id.clone(),
                        ..Default::default()
                    };
                    let stored = server
                        .events()
                        .get_event(get)
                        .await
                        .unwrap()
                        .into_inner()
                        .event
                        .unwrap();
                    prop_assert_eq!(&stored, &expected_event(request, &stored));
                    prop_assert_eq!(created, stored);
                }
                Err(status) => {
                    prop_assert_eq!(status.code(), Code::InvalidArgument, "{:?}", status);
                    prop_assert!(!bad_fields::<()>(Err(status)).is_empty());
                }
            }
            Ok(())
        })
    };
    TestRunner::new(config).run(&creates(), property).unwrap();
    runtime.block_on(server.stop()).unwrap();
}

/// Lists of numbers of every magnitude and notation.
fn numbers() -> impl Strategy<Value = Vec<f64>> {
    let finite = any::<u64>()
        .prop_map(f64::from_bits)
        .prop_filter("finite", |n| n.is_finite());
    let written = (-999_999i64..1_000_000, -320..308).prop_map(|(digits, exponent)| {
        let number: f64 = format!("{digits}e{exponent}").parse().unwrap();
        if number.is_finite() { number } else { 0.0 }
    });
    #[allow(clippy::cast_precision_loss)] // rounded doubles are the point
    let integral = any::<i64>().prop_map(|n| n as f64);
    let near_the_notations = (-8..24).prop_map(|exponent| 10f64.powi(exponent));
    prop::collection::vec(prop_oneof![finite, written, integral, near_the_notations], 1..100)
}

#[test]
fn the_counted_bytes_of_meta_are_those_that_the_database_prints() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    let spirit_id = runtime.block_on(server.spirit());
    let connection = tokio::sync::Mutex::new(runtime.block_on(server.database.connect()));
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let property = |numbers: Vec<f64>| {
        let list = list_of(numbers.into_iter().map(number).collect());
        let meta = object([("k", list)]);
        let json = object_of_struct(&meta);
        let request = CreateEventRequest {
            meta: Some(meta),
            ..event(&spirit_id)
        };
        let (printed, stored): (i32, i32) = runtime.block_on(async {
            let created = create(&mut server.events(), request).await;
            sqlx::query_as(
                "select octet_length(replace(meta::text, ' ', '')), meta_bytes - octet_length(meta::text)
                 from events
                 where id = $1::text::uuid",
            )
            .bind(created.id)
            .fetch_one(&mut *connection.lock().await)
            .await
            .unwrap()
        });
        let counted = Meta::from_json(json.clone()).printed_bytes();
        prop_assert_eq!(i32::try_from(counted).unwrap(), printed, "{}", json);
        prop_assert_eq!(stored, 0);
        Ok(())
    };
    TestRunner::new(config).run(&numbers(), property).unwrap();
    runtime.block_on(server.stop()).unwrap();
}
