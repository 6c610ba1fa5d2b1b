package index

// A merge makes a new version of an index out of the old one and of changes that
// come in the order of the records. It stands before a record of the old
// version, and each step either passes that record on or adds a new one.
//
// As long as nothing in a block changes it stays packed: nothing is encoded, and
// at its end it is marked to be copied. At the first change the records before
// it are decoded once more and go to the writer. If nothing changes at all
// nothing is written at all.
type merge struct {
	old      *edition
	w        writer
	c        cursor
	at       bool   // c.d.rec is the current record
	first    uint64 // ordinal of the first record of its block
	clean    bool   // nothing of its block has gone to the writer
	again    decoder
	emitted  uint64 // records of the new version so far
	inserted uint64 // of these, those that the old one has not
	changed  bool
}

// current returns the record that the merge stands before, nil at the end.
func (m *merge) current() (*Record, error) {
	if m.at {
		return &m.c.d.rec, nil
	}
	if m.c.next == m.old.records {
		return nil, nil
	}
	if !m.c.in {
		m.first = m.c.next
		m.clean = m.w.enc.count == 0 || m.w.full()
	}
	if err := m.c.step(); err != nil {
		return nil, err
	}
	m.at = true
	return &m.c.d.rec, nil
}

// ordinal returns the number of the current record in the old version.
func (m *merge) ordinal() uint64 {
	if m.at {
		return m.c.next - 1
	}
	return m.c.next
}

// keep passes the current record on as it is.
func (m *merge) keep() error {
	if !m.clean {
		if err := m.w.append(&m.c.d.rec); err != nil {
			return err
		}
	}
	m.emitted++
	return m.passed()
}

// passed leaves the current record behind.
func (m *merge) passed() error {
	m.at = false
	if m.c.in || !m.clean {
		return nil
	}
	m.clean = false
	return m.w.copyBlock(m.c.blk - 1)
}

// skipBlock passes a whole block on unread. The merge must stand before its
// first record.
func (m *merge) skipBlock() error {
	b := &m.old.blocks[m.c.blk]
	m.c.blk++
	m.c.next = b.end()
	m.emitted += b.count
	return m.w.copyBlock(m.c.blk - 1)
}

// canSkip reports whether skipBlock may be called.
func (m *merge) canSkip() bool {
	return !m.at && !m.c.in && m.c.next < m.old.records && (m.w.enc.count == 0 || m.w.full())
}

// replace passes rec on in the place of the current record.
func (m *merge) replace(rec *Record) error {
	if err := m.touch(); err != nil {
		return err
	}
	if err := m.w.append(rec); err != nil {
		return err
	}
	m.emitted++
	return m.passed()
}

// drop leaves the current record out.
func (m *merge) drop() error {
	if err := m.touch(); err != nil {
		return err
	}
	return m.passed()
}

// insert adds a record before the current one.
func (m *merge) insert(rec *Record) error {
	if err := m.touch(); err != nil {
		return err
	}
	m.emitted++
	m.inserted++
	return m.w.append(rec)
}

// touch unpacks the block that the merge stands in: the records of it that were
// passed on go to the writer.
func (m *merge) touch() error {
	m.changed = true
	if !m.clean || !m.at && !m.c.in {
		return nil
	}
	m.clean = false
	m.again.reset(m.c.d.b)
	for n := m.ordinal() - m.first; n > 0; n-- {
		if !m.again.next() {
			return m.old.corrupt(-1, "a record that was decoded before is none now: %s", m.again.why)
		}
		if err := m.w.append(&m.again.rec); err != nil {
			return err
		}
	}
	return nil
}
