// Package gc takes out of a repository what no ref reaches.
//
// # How
//
//	mark      from all refs, from what prune left out in the last 14 days, from packs with a
//	          .keep file, and from whole packs of the last 14 days of which no ref reaches
//	          anything yet: an interrupted save goes on with those
//	bring     what is reached and only in the trash, back into the repository
//	write     packs with garbage anew, without it; many small ones as one
//	decide    while no session can begin: mark from refs that moved meanwhile, and let the
//	          packs stay that they reach into
//	retire    the old packs to kedge/trash
//	empty     the trash of what has been there for 72 hours
//
// A pack that holds a dead tree or commit is always written anew: nothing that is left may
// name anything that is gone (I9). A pack of data alone is when a tenth of it is garbage.
// Of packs below 64 MiB there are at most eight in each class of size (powers of eight), data
// and the rest apart.
//
// Savers that are not kedge (bup, git) ask nobody. What one of them relied on and was
// retired is missing for 72 hours at most and can be read from the trash all the while; the
// next collection brings it back. That is what the second mark is for, and why nothing is
// deleted by the run that retires it.
//
// # When it refuses
//
// If an object that a ref reaches is missing or damaged; if the clock stands before the last
// receipt or before something in the trash; if less than 70 % of what was live the last time
// is live now, unless told that it is right; while a session lives, which is waited for.
//
// # A full disk
//
// Options.Now ends all graces: it deletes at once, and writes one pack at a time anew before
// it deletes the old one, so a repository with one pack's room left gets smaller. Prunes can
// not be undone after that.
package gc
