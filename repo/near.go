package repo

import (
	"slices"
	"strings"
)

// The bounds of the search for names that look like another.
const (
	maxNear       = 3      // names suggested
	maxBelow      = 10     // names that begin with what was asked for
	maxNearLength = 255    // of a name that is compared
	maxNearNames  = 20_000 // that are compared
)

// nearest returns the names that look most like want, the best first: by the
// number of letters to insert, remove, replace or swap with their neighbour.
// A name that is want but for upper and lower case, or that has want inside, is
// as near as one with one letter wrong.
func nearest(want string, all func(yield func(string) bool)) []string {
	if len(want) > maxNearLength {
		return nil
	}
	type candidate struct {
		name string
		cost int
	}
	var best []candidate
	limit := max(1, len(want)/3)
	n := 0
	all(func(name string) bool {
		if n++; n > maxNearNames {
			return false
		}
		if len(name) > maxNearLength || name == want {
			return true
		}
		cost := limit + 1
		if d := len(name) - len(want); d <= limit && -d <= limit {
			cost = editCost(want, name)
		}
		if strings.EqualFold(name, want) || len(want) >= 2 && strings.Contains(name, want) {
			cost = min(cost, 1)
		}
		if cost > limit {
			return true
		}
		i, _ := slices.BinarySearchFunc(best, cost, func(c candidate, cost int) int {
			if c.cost <= cost {
				return -1
			}
			return 1
		})
		if best = slices.Insert(best, i, candidate{name, cost}); len(best) > maxNear {
			best = best[:maxNear]
		}
		return true
	})
	out := make([]string, len(best))
	for i := range best {
		out[i] = best[i].name
	}
	return out
}

// Nearest returns the names that look most like want, three at most.
func Nearest(want string, names []string) []string { return nearest(want, slices.Values(names)) }

// below returns names that go on with a slash where front ends, the first few.
func below(front string, all func(yield func(string) bool)) (names []string) {
	all(func(name string) bool {
		if strings.HasPrefix(name, front+"/") {
			names = append(names, name)
		}
		return len(names) < maxBelow
	})
	return names
}

// editCost returns how many letters two names are apart.
func editCost(a, b string) int {
	var rows [3][maxNearLength + 1]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			c := last[j]
			if a[i] != b[j] {
				c++
			}
			c = min(c, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				c = min(c, before[j-1]+1)
			}
			row[j+1] = c
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
