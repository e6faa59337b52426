//! Interned type tags: a name is sent once for each session and direction, and its number stands for it from then on.

use std::collections::BTreeMap;

use crate::ids::TagId;
use crate::limits::TAG_BYTES_MAX;

/// A type tag that cannot be interned. The session is unaffected; the message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InternError {
    /// The tag is too long.
    #[error("the type tag has {bytes} bytes; shorten it to at most 255")]
    TooLong {
        /// Bytes of the tag.
        bytes: usize,
    },
    /// The session has reached its limit of type tags.
    #[error(
        "the session has reached its limit of {limit} type tags; send fewer types, or combine them in one"
    )]
    TooMany {
        /// The limit.
        limit: u32,
    },
}

/// The tags that this side has numbered.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    numbers: BTreeMap<Box<str>, TagId>,
    /// The names that were looked up last; a hit moves a name one place forward. Most messages of a burst are of few types,
    /// and a comparison with these names costs a few nanoseconds, the map fifty.
    recent: [Option<(Box<str>, TagId)>; RECENT],
}

const RECENT: usize = 4;

impl Interner {
    /// The name of a number. Takes time in the number of names.
    pub(crate) fn name(&self, id: TagId) -> Option<&str> {
        self.numbers.iter().find(|(_, number)| **number == id).map(|(name, _)| &**name)
    }

    /// The number of names.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number of `name`, if it has one.
    #[inline]
    pub(crate) fn find(&mut self, name: &str) -> Option<TagId> {
        for at in 0..RECENT {
            if let Some((recent, id)) = &self.recent[at]
                && **recent == *name
            {
                let id = *id;
                if at > 0 {
                    self.recent.swap(at, at - 1);
                }
                return Some(id);
            }
        }
        self.find_slowly(name)
    }

    #[cold]
    fn find_slowly(&mut self, name: &str) -> Option<TagId> {
        let id = *self.numbers.get(name)?;
        self.recent[RECENT - 1] = Some((name.into(), id));
        Some(id)
    }

    /// Gives `name`, which has no number yet, the next one.
    pub(crate) fn add(&mut self, name: &str, limit: u32) -> Result<TagId, InternError> {
        if name.len() > TAG_BYTES_MAX {
            return Err(InternError::TooLong { bytes: name.len() });
        }
        let id = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        if id >= limit {
            return Err(InternError::TooMany { limit });
        }
        self.numbers.insert(name.into(), TagId(id));
        self.recent[RECENT - 1] = Some((name.into(), TagId(id)));
        Ok(TagId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interner_name_keeps_its_number() {
        let mut interner = Interner::default();
        let names: Vec<String> = (0..20).map(|index| format!("acme.{index}/1")).collect();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(interner.find(name), None);
            assert_eq!(interner.add(name, 20), Ok(TagId(index as u32)));
        }
        for round in 0..200 {
            let index = (round * 7) % 20;
            assert_eq!(interner.find(&names[index]), Some(TagId(index as u32)));
        }
        assert_eq!(interner.add("one too many", 20), Err(InternError::TooMany { limit: 20 }));
        assert_eq!(interner.add(&"x".repeat(256), 99), Err(InternError::TooLong { bytes: 256 }));
    }
}
