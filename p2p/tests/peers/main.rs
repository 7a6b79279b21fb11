//! Real swarms on loopback: what is asked, fetched and found, and what becomes of peers that do harm.

mod ask;
mod fetch;
mod find;
mod keys;
mod node;
mod range;
mod rogue;
