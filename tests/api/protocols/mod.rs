//! Connect, gRPC-Web, HTTP/1.1, compression and CORS.

mod compression;
mod connect_streams;
mod connect_unary;
mod cors;
mod grpc_web;
mod http1;
mod keys_over_connect;
mod strictness;
