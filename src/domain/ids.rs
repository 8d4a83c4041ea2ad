//! Identifiers: newtypes over UUIDv7, so that they cannot be confused.

use std::fmt;

use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Generates a UUIDv7. Later calls in this process give greater values.
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
    /// Identifies a spirit.
    SpiritId
}
id! {
    /// Identifies an event.
    EventId
}

impl SpiritId {
    /// The nil UUID, which no spirit has.
    pub const NONE: Self = Self(Uuid::nil());
}

/// Parses a UUID in hyphenated form, in lower or upper case; `None` for any other text.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    const HYPHENATED_BYTES: usize = 36;
    if text.len() != HYPHENATED_BYTES {
        return None;
    }
    Uuid::try_parse(text).ok()
}
