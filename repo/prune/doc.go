// Package prune decides which saves of a name are kept, and writes the history of those
// anew.
//
// # What is kept
//
// Saves are seen by the time at which they came into the repository (repo.SaveTimes), the
// newest first; no clock of a client's has a say. A rule has slots: "daily 7" has one for
// each of the seven latest days on which something was saved. Days, weeks (of ISO 8601),
// months, quarters and years are those of the calendar in a time zone; an hour that a
// clock shows twice in autumn is two hours. A save is kept if any rule gives it a slot.
//
//	rule daily 2             Tue 22:00   Tue 04:00   Mon 22:00   Sun 22:00
//	                         kept                    kept
//
// Of a day the newest save gets the slot, but one with unreadable files never takes it from
// a complete one: then the newest complete save of that day gets it. A day with nothing
// but incomplete saves does not use up a slot either; there are as many slots again for
// such days.
//
// The newest save of a name, the newest complete one, and those that are pinned are always
// kept.
//
// # How it is done
//
// Trees, authors, committers, dates and messages stay as they are; commits get other parents,
// and so other ids, from the oldest save that is left out on. Tags that point to such commits
// follow them. The old tip is noted in kedge/pruned before the ref moves, and for 14 days
// Undo can bring it back: with the saves that came since on top.
package prune
