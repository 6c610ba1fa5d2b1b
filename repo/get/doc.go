// Package get copies saves, tags and trees from one repository to another.
//
// # What is done
//
// Each Order names something in the source by its path in the tree of names
// (repo.VFS) and says what becomes of it in the destination:
//
//	method       source                  destination
//	FastForward  branch, save, commit    branch: moves on to it; what it has must be below it
//	Append       branch, save, commit    branch: gets a copy of each commit of the history on top
//	Append       tree                    branch: gets a new commit of the tree on top
//	Pick         save, commit            branch: gets a copy of the one commit on top; or a new tag
//	ForcePick    save, commit            the same, and a tag that is there moves on
//	NewTag       anything                a tag that there must not be yet
//	Replace      branch, save, commit    branch or tag: is put there, whatever it was
//	Replace      tree, blob              tag
//	Unnamed      anything                none: it is only copied
//
// A copy of a commit keeps tree, author, date and message; its committer is who
// copies it, now, and a signature in its header, which would not fit, is left off.
// Orders are carried out one after the other, and each sees where those before it
// have put the refs.
//
// # How it is done
//
//	resolve all orders; nothing is written if one of them cannot be carried out
//	copy what is missing, children before parents; Session.Commit every 256 MiB
//	Session.Commit; then move each ref once, by compare and swap
//
// A tree that is present in the destination is present with all below it (I9), so a
// walk goes down only into what is missing, and whoever starts an interrupted copy
// again goes on where the last Commit left it. What was copied by then is garbage that
// the next run uses, and no ref ever reaches what is not there (I2).
//
// Objects are copied as they stand in packs: header and zlib stream, deltas resolved.
// On the way each is inflated, and compared with its id: damage does not spread.
//
// Where IgnoreMissing is set, which Unnamed alone allows, an object that the source
// lacks is passed over, and so is all that has it below: what arrives is whole.
package get
