// Package restore writes what a repository holds back to a file system, or to a
// tar stream.
//
// # The way of the data
//
//	walk     saved directories, one after another and without recursion; each
//	         item is compared with what is in the target and becomes work or not
//	window   work is gathered until some thousand chunks, 64 MiB or a hundred
//	         directories are together
//	fetch    one Repo.Get for all chunks of a window: it sorts them by pack and
//	         offset, reads, inflates and hashes them in parallel, and gives them out
//	         in any order
//	write    small files go to workers; chunks of large ones are gathered in
//	         aligned slabs, and written by whoever fills one
//	finish   hard links, then the directories of the window, the innermost first:
//	         symbolic links, what is to be deleted, metadata
//
// While one window is fetched and written, the walk gathers the next. A window is
// all that is held of a file, and some slabs, so memory depends neither on the size of a file nor
// on that of the tree; hard links cost some 200 bytes for each set of names.
//
// # What is guaranteed
//
// A restore is right or it fails loudly (I3). Every object is compared with its
// id before its bytes are used. A file has no name, or a temporary one, until it
// is complete and has its metadata; a file of which an object is missing or wrong
// never gets its name, and what had the name before stays.
//
// Nothing outside the target is touched (I6). The target is walked by descriptor,
// one component at a time, and no symbolic link in it is followed: neither one
// that was restored, nor one that somebody puts there meanwhile. Metadata go to
// the inode that is held, not to a name. Names are checked. What a run makes
// belongs to nobody else until its metadata are applied, and what is found in its
// place instead is not accepted.
//
// A run that was cut off is simply started again (I5): what is complete is left
// alone, and temporary names that a killed run left behind are removed when their
// directory comes up.
//
// # Rights
//
// Set-id bits, device nodes, security.* and trusted.* attributes are restored by
// root into a target that is new: absent, or an empty directory of root's.
// Anywhere else somebody could be waiting for them: there they are left off,
// named and counted, unless Options.System says otherwise.
//
// # Existing files
//
//	Overwrite   a file in the way
//	IfChanged   stays if type, size, mtime and all metadata are right, else it is
//	            replaced; with Verify its content is compared, too
//	Always      is replaced
//	Never       stays, whatever it is
//
// A file is replaced as a whole, never written into: it may have other names
// outside of the target. A directory that is there is used. Where a directory
// goes, a symbolic link is an error unless Overwrite is Always, and other files
// are replaced unless it is Never. Where something else goes, an empty directory
// is replaced unless it is Never; a full one is an error unless Delete says that
// it may go.
package restore
