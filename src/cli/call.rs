//! The options and clients of the commands that make a call and print its reply.

use anyhow::anyhow;
use clap::Args;

use super::client::{AddrArgs, Connection, REPLY_BYTES_MAX};
use super::spirits::resolve;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::session_service_client::SessionServiceClient;
use crate::grpc::pb::spirit_service_client::SpiritServiceClient;

/// Options of every command that prints a reply.
#[derive(Args, Clone, Debug)]
pub(super) struct CallArgs {
    /// Print JSON, an object a line, instead of text
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) addr: AddrArgs,
}

/// The spirit whose events or sessions a command reads or changes.
#[derive(Args, Clone, Debug)]
pub(super) struct OwnerArgs {
    /// Spirit, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,
}

impl OwnerArgs {
    /// Connects and finds the spirit; returns its id.
    pub(super) async fn connect(&self, call: &CallArgs) -> anyhow::Result<(Connection, String)> {
        connect(&self.spirit, call).await
    }
}

/// The spirit that a command shows or changes.
#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// Spirit, by name or id; the id if it is soft-deleted
    #[arg(value_name = "SPIRIT")]
    spirit: String,

    #[command(flatten)]
    pub(super) call: CallArgs,
}

impl TargetArgs {
    /// Connects and finds the spirit; returns its id.
    pub(super) async fn connect(&self) -> anyhow::Result<(Connection, String)> {
        connect(&self.spirit, &self.call).await
    }
}

/// Connects and finds a spirit by name or id; returns its id.
pub(super) async fn connect(spirit: &str, call: &CallArgs) -> anyhow::Result<(Connection, String)> {
    let channel = call.addr.connect().await?;
    let spirit_id = resolve(channel.clone(), spirit).await?;
    Ok((channel, spirit_id))
}

/// Connects and finds a spirit if one is given.
pub(super) async fn connect_any(
    spirit: Option<&str>,
    call: &CallArgs,
) -> anyhow::Result<(Connection, Option<String>)> {
    match spirit {
        Some(spirit) => {
            let (channel, spirit_id) = connect(spirit, call).await?;
            Ok((channel, Some(spirit_id)))
        }
        None => Ok((call.addr.connect().await?, None)),
    }
}

pub(super) fn event_client(channel: Connection) -> EventServiceClient<Connection> {
    EventServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
}

pub(super) fn session_client(channel: Connection) -> SessionServiceClient<Connection> {
    SessionServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
}

pub(super) fn spirit_client(channel: Connection) -> SpiritServiceClient<Connection> {
    SpiritServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
}

/// Returns the resource of a reply, which every server sends.
pub(super) fn present<T>(resource: Option<T>) -> anyhow::Result<T> {
    resource.ok_or_else(|| anyhow!("the server's reply is empty"))
}
