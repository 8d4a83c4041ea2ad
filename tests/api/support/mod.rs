//! Servers, databases, clients and assertions that the tests share. Start reading at [`harness`].

pub mod access;
pub mod builders;
#[path = "../../shared/certificates.rs"]
pub mod certificates;
pub mod citus;
pub mod cluster;
pub mod connect_proxy;
#[path = "../../shared/connections.rs"]
pub mod connections;
pub mod database;
pub mod frames;
pub mod harness;
pub mod health_watch;
pub mod http;
pub mod live;
pub mod load;
pub mod model;
pub mod pgbouncer;
pub mod proxy;
pub mod raw;
pub mod scrape;
pub mod validation;
