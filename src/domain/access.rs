//! Who may do what: roles, the rights that calls need, and the spirits that a caller knows of.

use std::sync::Arc;

use super::ids::SpiritId;
use super::refusal::Refusal;

/// What a key is for; each role may do what the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Reader,
    /// Also stores and edits events.
    Writer,
    /// Also creates and edits spirits.
    Admin,
}

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Changes nothing.
    Read,
    /// Stores or edits events.
    WriteEvents,
    /// Edits spirits.
    WriteSpirits,
    /// Creates spirits: nothing that a list of spirits could hold.
    CreateSpirits,
}

impl Role {
    /// From the weakest to the strongest.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Writer, Self::Admin];

    /// As people and the database write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether the role is enough.
    #[must_use]
    pub fn allows(self, right: Permission) -> bool {
        self >= match right {
            Permission::Read => Self::Reader,
            Permission::WriteEvents => Self::Writer,
            Permission::WriteSpirits | Permission::CreateSpirits => Self::Admin,
        }
    }
}

/// The spirits that a caller knows of; all others are to it as if they did not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpiritScope {
    /// Every spirit.
    All,
    /// This one.
    One(SpiritId),
    /// These, sorted; possibly none.
    Listed(Arc<[SpiritId]>),
}

impl SpiritScope {
    /// No spirit.
    #[must_use]
    pub fn none() -> Self {
        Self::Listed(Arc::default())
    }

    /// These spirits and no others.
    #[must_use]
    pub fn listed(mut spirit_ids: Vec<SpiritId>) -> Self {
        spirit_ids.sort_unstable();
        spirit_ids.dedup();
        Self::Listed(spirit_ids.into())
    }

    /// Whether the spirit is one of them.
    #[must_use]
    pub fn holds(&self, spirit_id: SpiritId) -> bool {
        match self {
            Self::All => true,
            Self::One(only) => *only == spirit_id,
            Self::Listed(listed) => listed.binary_search(&spirit_id).is_ok(),
        }
    }

    /// What it holds of the spirit that a request names; all of it when none is named.
    #[must_use]
    pub fn narrow(&self, named: Option<SpiritId>) -> Self {
        match named {
            None => self.clone(),
            Some(named) if self.holds(named) => Self::One(named),
            Some(_) => Self::none(),
        }
    }

    /// The spirits by id; `None` = every one.
    #[must_use]
    pub fn spirit_ids(&self) -> Option<&[SpiritId]> {
        match self {
            Self::All => None,
            Self::One(only) => Some(std::slice::from_ref(only)),
            Self::Listed(listed) => Some(listed),
        }
    }

    /// Refuses a spirit outside, as an unknown one is refused.
    pub fn check(&self, spirit_id: SpiritId) -> Result<(), Refusal> {
        if self.holds(spirit_id) {
            Ok(())
        } else {
            Err(Refusal::SpiritNotFound(spirit_id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Role, SpiritScope};
    use crate::domain::ids::SpiritId;

    #[test]
    fn a_reach_holds_what_it_lists_and_narrows_to_what_it_holds() {
        let [own, second, foreign] = std::array::from_fn(|_| SpiritId::generate());
        let scope = SpiritScope::listed(vec![second, own, own]);
        assert_eq!(scope.spirit_ids(), Some(&[own, second][..]));
        assert!(scope.holds(own) && scope.holds(second) && !scope.holds(foreign));
        assert_eq!(scope.narrow(Some(own)), SpiritScope::One(own));
        assert_eq!(scope.narrow(None), scope);
        let nothing = scope.narrow(Some(foreign));
        assert_eq!(nothing.spirit_ids(), Some(&[][..]));
        assert!(!nothing.holds(foreign) && !nothing.holds(own));
        assert_eq!(SpiritScope::All.narrow(Some(foreign)), SpiritScope::One(foreign));
    }

    #[test]
    fn roles_are_known_by_their_names() {
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
        }
        assert_eq!(Role::named("Admin"), None);
    }
}
