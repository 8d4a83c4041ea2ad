//! Authorisation of every RPC over Connect: the test of gRPC, through a proxy that translates to Connect.

use crate::auth::keys_by_rpc::every_rpc_enforces_the_role_and_the_scope;
use crate::support::access::KeyedServer;
use crate::support::connect_proxy;
use crate::support::harness::connect;

#[tokio::test]
async fn every_rpc_over_connect_enforces_the_role_and_the_spirit_scope_of_a_key() {
    let guarded = KeyedServer::start().await;
    let proxy = connect_proxy::start(guarded.server.addr).await;
    every_rpc_enforces_the_role_and_the_scope(&guarded, &connect(proxy).await).await;
}
