//! A doubly linked list whose links live in the nodes of a `Slab`: every step is O(1) and no node
//! is ever moved.
//!
//! A node can be in several lists at once, one for each [`Links`] field it has; the list names its
//! field by a function. What always holds: a node is in a list exactly if the list's owner pushed
//! it and has not unlinked it since. The list does not check that: its owner is `FairQueue` alone.

use slab::Slab;

const NONE: usize = usize::MAX;

/// A node's neighbours in one list.
#[derive(Clone, Copy)]
pub(super) struct Links {
    previous: usize,
    next: usize,
}

impl Links {
    /// Of a node that is in no list.
    pub(super) const UNLINKED: Links = Links { previous: NONE, next: NONE };
}

/// The ends of one list.
pub(super) struct List<N> {
    first: usize,
    last: usize,
    links: fn(&mut N) -> &mut Links,
}

impl<N> List<N> {
    /// An empty list through the field that `links` gives.
    pub(super) fn new(links: fn(&mut N) -> &mut Links) -> List<N> {
        List { first: NONE, last: NONE, links }
    }

    /// The node pushed longest ago.
    pub(super) fn first(&self) -> Option<usize> {
        (self.first != NONE).then_some(self.first)
    }

    /// The node pushed last.
    pub(super) fn last(&self) -> Option<usize> {
        (self.last != NONE).then_some(self.last)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    pub(super) fn push_back(&mut self, nodes: &mut Slab<N>, at: usize) {
        *(self.links)(&mut nodes[at]) = Links { previous: self.last, next: NONE };
        match self.last {
            NONE => self.first = at,
            last => (self.links)(&mut nodes[last]).next = at,
        }
        self.last = at;
    }

    pub(super) fn unlink(&mut self, nodes: &mut Slab<N>, at: usize) {
        let Links { previous, next } =
            std::mem::replace((self.links)(&mut nodes[at]), Links::UNLINKED);
        match previous {
            NONE => self.first = next,
            previous => (self.links)(&mut nodes[previous]).next = next,
        }
        match next {
            NONE => self.last = previous,
            next => (self.links)(&mut nodes[next]).previous = previous,
        }
    }
}
