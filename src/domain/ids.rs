//! Identifiers: newtypes over UUIDv7, so that one cannot stand where the other belongs.

use std::fmt;

use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new UUIDv7; later calls in this process give greater values.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }
    };
}

id! {
    /// Names a spirit.
    SpiritId
}
id! {
    /// Names an event.
    EventId
}

impl SpiritId {
    /// No spirit has this id.
    pub const NONE: Self = Self(Uuid::nil());
}

/// Reads a UUID in hyphenated form, either case; `None` for every other form.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    const HYPHENATED_BYTES: usize = 36;
    if text.len() != HYPHENATED_BYTES {
        return None;
    }
    Uuid::try_parse(text).ok()
}
