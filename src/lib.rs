//! A node of the grid: a content-addressed cache in which reading a path is a call.
//!
//! [`kernel::Kernel`] is the one call path; [`node::Node`] puts store, symbol table, engine and kernel together;
//! [`grid::Grid`] shows it as a mount; [`service`] and [`client`] are what the two binaries speak.

pub mod acceptance;
pub mod accepted;
pub mod answers;
pub mod authority;
pub mod builtins;
pub mod cache;
pub mod capability;
pub mod cas;
pub mod claims;
pub mod cli;
pub mod client;
mod collect;
mod consult;
pub mod copies;
pub mod daemon;
pub mod describe;
pub mod error;
pub mod flights;
pub mod followed;
pub mod grid;
pub mod head;
pub mod home;
pub mod identity;
pub mod kernel;
pub mod lent;
pub mod lineage;
pub mod marks;
pub mod module;
pub mod names;
pub mod node;
mod notify;
pub mod parms;
pub mod partial;
pub mod path;
pub mod peers;
pub mod project;
pub mod promise;
pub mod published;
pub mod receipt;
mod records;
pub mod resolve;
pub mod runners;
pub mod service;
pub mod syscalls;
pub mod ticket;
pub mod time;
pub mod wasm;
pub mod workload;

#[cfg(test)]
#[allow(dead_code, reason = "the store's own tests use all of it")]
#[path = "../store/src/dice.rs"]
mod dice;
