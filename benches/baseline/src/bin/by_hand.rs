//! `by_hand DATABASE_URL`: CreateEvent as one would write it by hand, with tonic and sqlx. Prints its address.
//!
//! One statement a call, on a pool of connections: it locks the spirit, draws the next sequence and inserts the event,
//! so that sequences have no gaps and follow commit order, as in the service. A taken dedupe key undoes the statement
//! and the first event is read. The schema is the service's.

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::types::chrono::{DateTime, Utc};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use pb::event_service_server::EventServiceServer;
use pb::spirit_service_server::SpiritServiceServer;

#[allow(clippy::all)]
mod pb {
    tonic::include_proto!("elephantasm.events.v1");
}

/// More connections do not help on a few cores.
const CONNECTIONS: u32 = 16;

const CREATE: &str = "
    with spirit as (
        update spirits
        set last_sequence = last_sequence + 1
        where id = $2
        and deleted_at is null
        returning id, last_sequence
    )
    insert into events (
        id, spirit_id, sequence, event_type, content, occurred_at, session_id, role, dedupe_key
    )
    select $1, id, last_sequence, $3, $4, now(), $5, $6, $7
    from spirit
    returning id, sequence, occurred_at, created_at";

const FIND: &str = "
    select id, sequence, occurred_at, created_at
    from events
    where spirit_id = $1
    and dedupe_key = $2";

type Stored = (Uuid, i64, DateTime<Utc>, DateTime<Utc>);

struct Service(PgPool);

#[tonic::async_trait]
impl pb::event_service_server::EventService for Service {
    async fn create_event(
        &self,
        request: Request<pb::CreateEventRequest>,
    ) -> Result<Response<pb::CreateEventResponse>, Status> {
        let new = request.into_inner();
        let spirit_id: Uuid = new
            .spirit_id
            .parse()
            .map_err(|_| Status::invalid_argument("spirit_id"))?;
        let stored = sqlx::query_as::<_, Stored>(CREATE)
            .bind(Uuid::now_v7())
            .bind(spirit_id)
            .bind(&new.event_type)
            .bind(&new.content)
            .bind(&new.session_id)
            .bind(&new.role)
            .bind(&new.dedupe_key)
            .fetch_optional(&self.0)
            .await;
        let (stored, outcome) = match stored {
            Ok(stored) => (stored, pb::CreateOutcome::Created),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                let found = sqlx::query_as(FIND).bind(spirit_id).bind(&new.dedupe_key);
                let found = found.fetch_optional(&self.0).await.map_err(internal)?;
                (found, pb::CreateOutcome::Duplicate)
            }
            Err(error) => return Err(internal(error)),
        };
        let stored = stored.ok_or_else(|| Status::not_found("the spirit does not exist"))?;
        Ok(Response::new(pb::CreateEventResponse {
            event: Some(event(new, stored)),
            outcome: outcome.into(),
        }))
    }
}

#[tonic::async_trait]
impl pb::spirit_service_server::SpiritService for Service {
    async fn create_spirit(
        &self,
        request: Request<pb::CreateSpiritRequest>,
    ) -> Result<Response<pb::CreateSpiritResponse>, Status> {
        let pb::CreateSpiritRequest { name, .. } = request.into_inner();
        let id = Uuid::now_v7();
        sqlx::query("insert into spirits (id, name, name_folded) values ($1, $2, lower($2))")
            .bind(id)
            .bind(&name)
            .execute(&self.0)
            .await
            .map_err(internal)?;
        Ok(Response::new(pb::CreateSpiritResponse {
            spirit: Some(pb::Spirit {
                id: id.to_string(),
                name: Some(name),
                ..pb::Spirit::default()
            }),
        }))
    }
}

/// The event as stored.
fn event(new: pb::CreateEventRequest, (id, sequence, occurred_at, created_at): Stored) -> pb::Event {
    pb::Event {
        id: id.to_string(),
        spirit_id: Some(new.spirit_id),
        sequence,
        event_type: Some(new.event_type),
        content: new.content,
        occurred_at: timestamp(occurred_at),
        session_id: new.session_id,
        role: new.role,
        dedupe_key: new.dedupe_key,
        revision: 1,
        created_at: timestamp(created_at),
        updated_at: timestamp(created_at),
        ..pb::Event::default()
    }
}

fn timestamp(time: DateTime<Utc>) -> Option<prost_types::Timestamp> {
    let nanos = time.timestamp_subsec_nanos().try_into().ok()?;
    Some(prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos,
    })
}

fn internal(error: sqlx::Error) -> Status {
    Status::internal(error.to_string())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_default();
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .test_before_acquire(false)
        .connect(&url)
        .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    Server::builder()
        .tcp_nodelay(true)
        .add_service(EventServiceServer::new(Service(pool.clone())))
        .add_service(SpiritServiceServer::new(Service(pool)))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
