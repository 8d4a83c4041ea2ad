//! Connect, gRPC-Web, HTTP/1.1, compression, CORS and the files of the console.

mod compression;
mod connect_streams;
mod connect_unary;
mod console;
mod cors;
mod grpc_web;
mod http1;
mod keys_over_connect;
mod strictness;
