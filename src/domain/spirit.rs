//! Spirits: the agents that own events.

use unicase::UniCase;

use super::Time;
use super::ids::SpiritId;
use super::meta::Meta;
use super::purge::Retention;

/// A stored spirit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spirit {
    pub id: SpiritId,
    pub name: String,
    pub description: Option<String>,
    pub meta: Meta,
    pub last_sequence: i64,
    /// Number of the newest change of its events.
    pub last_change: i64,
    pub retention: Retention,
    pub revision: i64,
    pub deleted_at: Option<Time>,
    pub created_at: Time,
    pub updated_at: Time,
}

/// A spirit to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSpirit {
    pub id: SpiritId,
    pub name: String,
    pub description: Option<String>,
    pub meta: Meta,
    pub retention: Retention,
}

/// Returns the name after full Unicode case folding. The result does not depend on the database's locale.
#[must_use]
pub fn fold_name(name: &str) -> String {
    UniCase::unicode(name).to_folded_case()
}

#[cfg(test)]
mod tests {
    use super::fold_name;

    #[test]
    fn names_fold_beyond_ascii() {
        for (name, folded) in [
            ("ÉLAN", "élan"),
            ("Straße", "strasse"),
            ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
            ("50%_x", "50%_x"),
        ] {
            assert_eq!(fold_name(name), folded);
        }
    }
}
