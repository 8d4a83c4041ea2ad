//! The web console: a page on which people look at events, embedded in the binary and served on the port for calls.
//!
//! [`files`] holds the files of the directory `console/` and their headers. The layer answers GET and HEAD for their
//! paths and passes every other request on. The page itself makes calls over Connect, with the API key that its user
//! gives it, so nothing here is authenticated and nothing here reads data.

mod files;
mod layer;

pub use layer::ConsoleLayer;
