//go:build race

package repo

// raceEnabled says that this is a race test, in which pools forget things at random.
const raceEnabled = true
