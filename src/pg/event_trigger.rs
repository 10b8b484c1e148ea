//! An event trigger as it fires: which command, and what of its parse tree matters.

use pgrx::pg_sys::{self, NodeTag};

use super::call::Call;
use super::{classify, text, tree};

/// A firing event trigger. Valid for the duration of the call.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    data: &'a pg_sys::EventTriggerData,
}

/// What an ALTER TABLE does to the tree of partitions or children.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Alteration {
    /// A table comes under another; as a partition if it is named here.
    Gain { parent: Option<pg_sys::Oid>, partition: Option<pg_sys::Oid> },
    /// A partition leaves; its oid if it can be found by its name.
    Loss { partition: Option<pg_sys::Oid>, concurrently: bool },
}

impl<'a> Event<'a> {
    /// The event that calls; `None` if the function is called in any other way.
    pub fn of(call: &'a Call) -> Option<Self> {
        let context = call.context();
        // SAFETY: NULL or a node that lives as long as the call.
        let tag = unsafe { context.as_ref() }?.type_;
        if tag != NodeTag::T_EventTriggerData {
            return None;
        }
        // SAFETY: the tag says what it is.
        Some(Self { data: unsafe { &*context.cast::<pg_sys::EventTriggerData>() } })
    }

    /// The command, as in `CREATE TABLE`.
    pub fn command(self) -> String {
        // SAFETY: a constant of the server.
        text::c_string(unsafe { pg_sys::GetCommandTagName(self.data.tag) })
    }

    fn statement(self) -> Option<(*mut pg_sys::Node, NodeTag)> {
        let node = self.data.parsetree;
        // SAFETY: NULL or the command's parse tree.
        unsafe { node.as_ref() }.map(|tree| (node, tree.type_))
    }

    /// Whether the command creates or drops pg_cache itself.
    pub fn is_our_coming_or_going(self) -> bool {
        let Some((node, tag)) = self.statement() else { return false };
        match tag {
            NodeTag::T_CreateExtensionStmt => {
                // SAFETY: the tag says what it is.
                let create = unsafe { &*node.cast::<pg_sys::CreateExtensionStmt>() };
                text::c_string(create.extname) == "pg_cache"
            }
            _ => is_our_script(),
        }
    }

    /// Whether the command makes a temporary table. REFRESH … CONCURRENTLY does, and hides it from
    /// the list of what was done.
    pub fn makes_temporary_table(self) -> bool {
        let Some((node, tag)) = self.statement() else { return false };
        let table = match tag {
            // SAFETY: the tag says what it is.
            NodeTag::T_CreateStmt => unsafe { &*node.cast::<pg_sys::CreateStmt>() }.relation,
            NodeTag::T_CreateTableAsStmt => {
                // SAFETY: as above.
                let into = unsafe { &*node.cast::<pg_sys::CreateTableAsStmt>() }.into;
                // SAFETY: NULL or part of the tree.
                unsafe { into.as_ref() }.map_or(std::ptr::null_mut(), |into| into.rel)
            }
            _ => return false,
        };
        // SAFETY: NULL or part of the tree.
        let persistence = unsafe { table.as_ref() }.map(|table| table.relpersistence as u8);
        persistence == Some(pg_sys::RELPERSISTENCE_TEMP)
    }

    /// Whether the command alters what is a temporary table by its name. Code that the command runs
    /// may have made one that hides the table it is about.
    pub fn alters_temporary_table(self) -> bool {
        let Some((node, NodeTag::T_AlterTableStmt)) = self.statement() else { return false };
        // SAFETY: the tag says what it is.
        let table = unsafe { &*node.cast::<pg_sys::AlterTableStmt>() }.relation;
        classify::relation_named(table).is_some_and(classify::is_temporary)
    }

    /// Whether the command takes columns of a table away, or their names.
    pub fn takes_columns(self) -> bool {
        match self.statement() {
            Some((node, NodeTag::T_RenameStmt)) => {
                // SAFETY: the tag says what it is.
                let rename = unsafe { &*node.cast::<pg_sys::RenameStmt>() };
                rename.renameType == pg_sys::ObjectType::OBJECT_COLUMN
            }
            Some((node, NodeTag::T_AlterTableStmt)) => {
                // SAFETY: as above.
                let alter = unsafe { &*node.cast::<pg_sys::AlterTableStmt>() };
                let commands = tree::nodes::<pg_sys::AlterTableCmd>(alter.cmds);
                let drop = pg_sys::AlterTableType::AT_DropColumn;
                // SAFETY: the members of this list are such commands.
                commands.iter().any(|command| unsafe { &**command }.subtype == drop)
            }
            _ => false,
        }
    }

    /// What an ALTER TABLE does to the tree, if this is one that does.
    pub fn alterations(self) -> Vec<Alteration> {
        let Some((node, NodeTag::T_AlterTableStmt)) = self.statement() else { return Vec::new() };
        // SAFETY: the tag says what it is.
        let alter = unsafe { &*node.cast::<pg_sys::AlterTableStmt>() };
        let commands = tree::nodes::<pg_sys::AlterTableCmd>(alter.cmds);
        // SAFETY: the members of this list are such commands.
        commands.iter().filter_map(|cmd| alteration(alter, unsafe { &**cmd })).collect()
    }
}

fn alteration(
    alter: &pg_sys::AlterTableStmt,
    command: &pg_sys::AlterTableCmd,
) -> Option<Alteration> {
    use pg_sys::AlterTableType as Type;
    // SAFETY: used for those commands that carry such a node.
    let part = || unsafe { &*command.def.cast::<pg_sys::PartitionCmd>() };
    match command.subtype {
        // ALTER INDEX attaches too, and its parent is no table.
        Type::AT_AttachPartition => Some(Alteration::Gain {
            parent: classify::relation_named(alter.relation),
            partition: classify::relation_named(part().name),
        }),
        Type::AT_AddInherit => Some(Alteration::Gain { parent: None, partition: None }),
        Type::AT_DetachPartition | Type::AT_DetachPartitionFinalize => Some(Alteration::Loss {
            partition: classify::relation_named(part().name),
            concurrently: part().concurrent,
        }),
        _ => None,
    }
}

/// Whether a script of pg_cache's own runs: CREATE EXTENSION or its update.
fn is_our_script() -> bool {
    // SAFETY: a global of the backend.
    if !unsafe { pg_sys::creating_extension } {
        return false;
    }
    // SAFETY: as above.
    let running = unsafe { pg_sys::CurrentExtensionObject };
    // SAFETY: reads pg_extension; a missing one gives InvalidOid.
    running == unsafe { pg_sys::get_extension_oid(c"pg_cache".as_ptr(), true) }
}

/// pg_upgrade builds a cluster object by object; nothing reads through a cache there.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: a global of the backend.
    unsafe { pg_sys::IsBinaryUpgrade }
}
