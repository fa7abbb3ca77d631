//! What goes wrong underneath, on purpose: the node, the chain, the process itself.

mod chain;
mod in_flight;
mod kills;
mod lane;
mod networks;
mod node;
mod points;
mod providers;
mod workers;
