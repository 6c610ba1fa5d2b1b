package index

// A guard knows the directories above records that changed. Their own records
// come later, the innermost first, and must not be skipped.
type guard struct {
	key string // of the innermost
	on  bool
}

// watch adds the directories above a key. Those of the key watched last, if they
// are still to come, are among them: records come in post-order.
func (g *guard) watch(key string) {
	if g.on = key != ""; g.on {
		g.key = string(bytesOf(parentKey(key)))
	}
}

// mayBeIn reports whether a watched directory may be in block i.
func (g *guard) mayBeIn(blocks []block, i int) bool {
	for g.on && compareKeys(g.key, blocks[i].last) <= 0 {
		if i == 0 || compareKeys(g.key, blocks[i-1].last) > 0 {
			return true
		}
		// Its place has passed: on to the next one above.
		if g.on = g.key != ""; g.on {
			g.key = parentKey(g.key)
		}
	}
	return false
}
