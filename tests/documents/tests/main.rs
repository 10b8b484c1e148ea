//! The documents run, and say of the settings and errors what the source says.

mod links;
mod run;
mod sources;
