// Package job is what kedge does by itself: the config file, a night's run with its hooks and
// streams, the schedule, the status of a server, and the recovery of an instance.
//
// # A night
//
// A job has parts; each part is one NAME, and one commit a night. Kedge run does, in order:
//
//	lock       flock on run/JOB.lock in the state directory: one run of a job at a time
//	note       write run/JOB and fsync it, start the guardian
//	before     hook: stop the database
//	snapshot   hook: take a snapshot
//	resume     hook: start the database again, before a byte of the snapshot is read
//	dumps      the streams of each part are part of its save
//	index      walk the directories
//	save       one commit for each part
//	after      hook: only if every part was saved
//	finally    hook: remove the snapshot; always
//	done       remove run/JOB
//
// # What was stopped is started again
//
// run/JOB says that hooks were begun which others have to make good. Three look for it: the
// guardian, a process of the same program in a session of its own, which waits for the flock
// that the run and it share and for the end of a pipe that only the run holds; a unit that runs
// at boot and after the service; and the next run. Who gets the flock and finds the file runs
// resume and finally, and removes it. So these two hooks run at least once, whatever was killed,
// and must do no harm if they run twice. Hooks inherit neither the lock nor the pipe.
//
// # What fails
//
// A part fails alone: a stream that ends badly means no commit for its NAME; files that cannot
// be read mean a commit that says so (Kedge-Unreadable) and exit code 3. The other parts go on,
// unless the job says stop-on-failure. A hook before or snapshot that fails ends the run, with
// resume and finally.
//
// # Words
//
// The package prints nothing and reads neither environment nor clock by itself: the command
// hands it what it needs (see World).
package job
