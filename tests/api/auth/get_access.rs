//! `GetAccess`: what the caller's API key may do.

use std::time::{Duration, SystemTime};

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb::access_service_client::AccessServiceClient;
use elephantasm_events::grpc::pb::{AccessRole, GetAccessRequest, GetAccessResponse};
use tonic::Code;
use uuid::Uuid;

use crate::support::access::KeyedServer;
use crate::support::builders::refused;
use crate::support::harness::TestServer;

#[tokio::test]
async fn a_server_without_keys_reports_the_admin_role() {
    let server = TestServer::start().await;
    let mut access = AccessServiceClient::new(server.channel());
    let reply = access.get_access(GetAccessRequest {}).await.unwrap().into_inner();
    let expected = GetAccessResponse {
        role: AccessRole::Admin.into(),
        ..GetAccessResponse::default()
    };
    assert_eq!(reply, expected);
}

#[tokio::test]
async fn get_access_returns_role_spirits_prefix_and_expiry_of_the_key() {
    const DAY: Duration = Duration::from_secs(86_400);
    let guarded = KeyedServer::start().await;
    let mut spirit_ids = [Uuid::now_v7(), Uuid::now_v7()].map(|id| id.to_string());
    spirit_ids.sort_unstable_by(|a, b| b.cmp(a));
    let listed: Vec<&str> = spirit_ids.iter().map(String::as_str).collect();
    for (role, wire) in [
        (Role::Reader, AccessRole::Reader),
        (Role::Writer, AccessRole::Writer),
        (Role::Admin, AccessRole::Admin),
    ] {
        for (listed, expires_in) in [(None, None), (Some(listed.as_slice()), Some(DAY))] {
            let key = guarded.keys.create(role, listed, expires_in).await;
            let caller = key.caller(&guarded.server);
            let reply = caller.access().get_access(GetAccessRequest {}).await;
            let reply = reply.unwrap().into_inner();
            assert_eq!(reply.role(), wire);
            assert_eq!(reply.key_prefix, Some(key.prefix.clone()));
            let mut ascending: Vec<&str> = listed.unwrap_or_default().into();
            ascending.sort_unstable();
            assert_eq!(reply.spirit_ids, ascending);
            let left = reply.expires_at.map(|time| {
                let time = SystemTime::try_from(time).unwrap();
                time.duration_since(SystemTime::now()).unwrap()
            });
            assert_eq!(left.is_some(), expires_in.is_some());
            assert!(left.is_none_or(|left| left <= DAY && left > DAY / 2), "{left:?}");
        }
    }
}

#[tokio::test]
async fn get_access_needs_a_key_that_is_not_revoked_once_there_are_keys() {
    let guarded = KeyedServer::start().await;
    let mut anonymous = AccessServiceClient::new(guarded.server.channel());
    let refusal = anonymous.get_access(GetAccessRequest {}).await;
    refused(refusal, Code::Unauthenticated, "MISSING_KEY");

    let key = guarded.keys.create(Role::Reader, None, None).await;
    let caller = key.caller(&guarded.server);
    caller.access().get_access(GetAccessRequest {}).await.unwrap();
    guarded.keys.revoke(&key).await;
    caller.wait_until_refused().await;
    let refusal = caller.access().get_access(GetAccessRequest {}).await;
    refused(refusal, Code::Unauthenticated, "INVALID_KEY");
}
