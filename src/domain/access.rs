//! Access: roles, the permissions that calls need, and the spirits that a caller may see.

use std::sync::Arc;

use super::Time;
use super::ids::SpiritId;
use super::refusal::Refusal;

/// The role of an API key. Each role includes the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May read.
    Reader,
    /// May also store and edit events.
    Writer,
    /// May also create and edit spirits, and purge.
    Admin,
}

/// The permissions of a caller, as GetAccess reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub role: Role,
    pub scope: SpiritScope,
    /// Prefix of the caller's API key; `None` on a server without API keys.
    pub key_prefix: Option<String>,
    /// When the API key expires; `None` = never.
    pub expires_at: Option<Time>,
}

/// The caller of an edit of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Editor {
    /// The spirits that the caller may see.
    pub scope: SpiritScope,
    /// Prefix of the caller's API key, which the history of the events records; `None` on a server without API keys.
    pub key_prefix: Option<String>,
}

/// The permission that a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Read events, sessions and spirits.
    Read,
    /// Store and edit events.
    WriteEvents,
    /// Edit spirits.
    WriteSpirits,
    /// Purge events and spirits, and list purges.
    Purge,
    /// Create spirits. An API key that is limited to listed spirits is denied it whatever its role.
    CreateSpirits,
}

impl Role {
    /// All roles, weakest first.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Writer, Self::Admin];

    /// Returns the name that the command line and the database use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        }
    }

    /// Returns the role with this name; `None` if the name is unknown.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Returns whether the role has the permission.
    #[must_use]
    pub fn allows(self, permission: Permission) -> bool {
        self >= match permission {
            Permission::Read => Self::Reader,
            Permission::WriteEvents => Self::Writer,
            Permission::WriteSpirits | Permission::Purge | Permission::CreateSpirits => Self::Admin,
        }
    }
}

/// The spirits that a caller may see. Other spirits are reported to the caller as unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpiritScope {
    /// Every spirit.
    All,
    /// One spirit.
    One(SpiritId),
    /// The spirits of a sorted list, which may be empty.
    Listed(Arc<[SpiritId]>),
}

impl SpiritScope {
    /// Returns a scope that contains no spirit.
    #[must_use]
    pub fn none() -> Self {
        Self::Listed(Arc::default())
    }

    /// Returns a scope that contains exactly these spirits.
    #[must_use]
    pub fn listed(mut spirit_ids: Vec<SpiritId>) -> Self {
        spirit_ids.sort_unstable();
        spirit_ids.dedup();
        Self::Listed(spirit_ids.into())
    }

    /// Returns whether the spirit is in the scope.
    #[must_use]
    pub fn holds(&self, spirit_id: SpiritId) -> bool {
        match self {
            Self::All => true,
            Self::One(only) => *only == spirit_id,
            Self::Listed(listed) => listed.binary_search(&spirit_id).is_ok(),
        }
    }

    /// Returns the part of the scope that a request selects: the named spirit if it is in the scope, or the whole
    /// scope if no spirit is named.
    #[must_use]
    pub fn narrow(&self, named: Option<SpiritId>) -> Self {
        match named {
            None => self.clone(),
            Some(named) if self.holds(named) => Self::One(named),
            Some(_) => Self::none(),
        }
    }

    /// Returns the ids of the spirits in the scope; `None` if it contains every spirit.
    #[must_use]
    pub fn spirit_ids(&self) -> Option<&[SpiritId]> {
        match self {
            Self::All => None,
            Self::One(only) => Some(std::slice::from_ref(only)),
            Self::Listed(listed) => Some(listed),
        }
    }

    /// Fails for a spirit outside the scope, with the error for an unknown spirit.
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
    fn a_scope_contains_its_list_and_narrows_only_to_listed_spirits() {
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
    fn a_role_is_found_by_its_exact_name() {
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
        }
        assert_eq!(Role::named("Admin"), None);
    }
}
