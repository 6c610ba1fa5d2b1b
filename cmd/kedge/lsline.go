package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// This file writes the lines of ls.

// lsRow is one line of a listing.
type lsRow struct {
	name   string
	dir    string     // the directory it was found in; "" for what was named itself
	mode   uint32     // whole st_mode
	meta   *meta.Meta // its Mode is 0 if nothing is recorded
	size   int64
	target string  // of a symbolic link
	id     pack.ID // what -s shows; zero for what is no object
	commit pack.ID // of a name and of a save

	// Of a name, for which its newest save stands, and of a save:
	save              bool
	files, unreadable int64
	host              string
}

// lsFormat says how lines look.
type lsFormat struct {
	long, hash, commit bool
	classify, fileType bool
	human, numeric     bool
}

// append appends the line of a row, without a newline.
func (f *lsFormat) append(dst []byte, a *app, r *lsRow) []byte {
	switch {
	case f.commit && !r.commit.IsZero():
		dst = append(r.commit.AppendHex(dst), ' ')
	case f.hash || f.commit:
		dst = append(r.id.AppendHex(dst), ' ')
	}
	if f.long {
		dst = fmt.Appendf(dst, "%-10s %-11s %11s %16s ", modeString(r.mode), f.owner(r), f.sizeOrDevice(r), minuteOf(r.meta))
	}
	dst = a.appendName(dst, r.name)
	dst = append(dst, f.suffix(r.mode)...)
	if f.long && r.target != "" {
		dst = a.appendName(append(dst, " -> "...), r.target)
	}
	if f.long && r.unreadable > 0 {
		dst = fmt.Appendf(dst, " (%s unreadable)", formatCount(r.unreadable))
	}
	return dst
}

// suffix returns the sign that -F and --file-type put behind a name.
func (f *lsFormat) suffix(mode uint32) string {
	if !f.classify && !f.fileType {
		return ""
	}
	switch mode & meta.TypeMask {
	case meta.TypeDir:
		return "/"
	case meta.TypeSymlink:
		return "@"
	case meta.TypeFIFO:
		return "|"
	case meta.TypeSocket:
		return "="
	case meta.TypeFile:
		if f.classify && mode&0o111 != 0 {
			return "*"
		}
	}
	return ""
}

func (f *lsFormat) owner(r *lsRow) string {
	if r.meta == nil || r.meta.Mode == 0 {
		return "?/?"
	}
	user, group := r.meta.User, r.meta.Group
	if f.numeric || user == "" {
		user = strconv.FormatInt(r.meta.UID, 10)
	}
	if f.numeric || group == "" {
		group = strconv.FormatInt(r.meta.GID, 10)
	}
	return escape(user + "/" + group)
}

func (f *lsFormat) sizeOrDevice(r *lsRow) string {
	switch t := r.mode & meta.TypeMask; {
	case (t == meta.TypeChar || t == meta.TypeBlock) && r.meta != nil:
		major, minor := splitDevice(r.meta.Rdev)
		return fmt.Sprintf("%d,%d", major, minor)
	case f.human:
		return shortSize(r.size)
	}
	return strconv.FormatInt(r.size, 10)
}

// splitDevice takes a device number apart as the kernel encodes it for
// programs: the low 12 bits of the major number in bits 8 to 19, the low 8 of
// the minor in bits 0 to 7, the rest above.
func splitDevice(dev uint64) (major, minor uint64) {
	return dev>>8&0xfff | dev>>32&^0xfff, dev&0xff | dev>>12&0xffffff00
}

// minuteOf returns the time of the last change, in local time.
func minuteOf(m *meta.Meta) string {
	if m == nil || m.Mode == 0 {
		return "????-??-?? ??:??"
	}
	return time.Unix(m.Mtime.Sec, int64(m.Mtime.Nsec)).Format("2006-01-02 15:04")
}

// modeString writes a mode as ls does.
func modeString(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	for typ, c := range map[uint32]byte{
		meta.TypeFile: '-', meta.TypeDir: 'd', meta.TypeSymlink: 'l', meta.TypeFIFO: 'p',
		meta.TypeSocket: 's', meta.TypeChar: 'c', meta.TypeBlock: 'b',
	} {
		if mode&meta.TypeMask == typ {
			b[0] = c
		}
	}
	for i := range 9 {
		if mode>>uint(8-i)&1 == 0 {
			b[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit     uint32
		at      int
		on, off byte
	}{{0o4000, 3, 's', 'S'}, {0o2000, 6, 's', 'S'}, {0o1000, 9, 't', 'T'}} {
		if mode&s.bit == 0 {
			continue
		}
		if b[s.at] == 'x' {
			b[s.at] = s.on
		} else {
			b[s.at] = s.off
		}
	}
	return string(b)
}

// columns arranges lines in columns for a terminal, from top to bottom as ls
// does. Lines are as wide as they have characters; there are no others in them.
func columns(lines []string, width int) string {
	widths := make([]int, len(lines))
	for i, l := range lines {
		widths[i] = utf8.RuneCountInString(l)
	}
	rows := 1
	var cols []int
	for ; ; rows++ {
		cols = cols[:0]
		total := 0
		for i := 0; i < len(lines); i += rows {
			w := 0
			for _, v := range widths[i:min(i+rows, len(lines))] {
				w = max(w, v)
			}
			cols = append(cols, w)
			total += w + 2
		}
		if total-2 <= width || rows >= len(lines) {
			break
		}
	}
	var b strings.Builder
	for row := range min(rows, len(lines)) {
		for col := 0; row+col*rows < len(lines); col++ {
			i := row + col*rows
			b.WriteString(lines[i])
			if i+rows < len(lines) {
				b.WriteString(strings.Repeat(" ", cols[col]-widths[i]+2))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// lsEntry is a line of ls in JSON.
type lsEntry struct {
	jsonName
	Dir          string `json:"dir,omitempty"`
	DirBase64    string `json:"dir_base64,omitempty"`
	Type         string `json:"type"`
	Mode         string `json:"mode"`
	Size         *int64 `json:"size,omitempty"`
	User         string `json:"user,omitempty"`
	Group        string `json:"group,omitempty"`
	UID          *int64 `json:"uid,omitempty"`
	GID          *int64 `json:"gid,omitempty"`
	Mtime        string `json:"mtime,omitempty"`
	Device       string `json:"device,omitempty"`
	Target       string `json:"target,omitempty"`
	TargetBase64 string `json:"target_base64,omitempty"`
	ID           string `json:"id,omitempty"`
	Commit       string `json:"commit,omitempty"`
	Files        int64  `json:"files,omitempty"`
	Unreadable   int64  `json:"unreadable,omitempty"`
	Host         string `json:"host,omitempty"`
}

// entry returns a row for JSON.
func (r *lsRow) entry() lsEntry {
	e := lsEntry{jsonName: nameJSON(r.name), Type: typeWord(r), Mode: fmt.Sprintf("%04o", r.mode&0o7777),
		Files: r.files, Unreadable: r.unreadable, Host: r.host}
	dir, target := nameJSON(r.dir), nameJSON(r.target)
	e.Dir, e.DirBase64, e.Target, e.TargetBase64 = dir.Text, dir.Base64, target.Text, target.Base64
	if r.save || r.mode&meta.TypeMask == meta.TypeFile {
		e.Size = &r.size
	}
	if !r.id.IsZero() {
		e.ID = r.id.String()
	}
	if !r.commit.IsZero() {
		e.Commit = r.commit.String()
	}
	if m := r.meta; m != nil && m.Mode != 0 {
		e.User, e.Group, e.UID, e.GID = m.User, m.Group, &m.UID, &m.GID
		e.Mtime = time.Unix(m.Mtime.Sec, int64(m.Mtime.Nsec)).UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
		if t := m.Type(); t == meta.TypeChar || t == meta.TypeBlock {
			major, minor := splitDevice(m.Rdev)
			e.Device = fmt.Sprintf("%d,%d", major, minor)
		}
	}
	return e
}

// typeWord returns the word for a type in JSON.
func typeWord(r *lsRow) string {
	if r.save {
		return "save"
	}
	switch r.mode & meta.TypeMask {
	case meta.TypeDir:
		return "dir"
	case meta.TypeSymlink:
		return "symlink"
	case meta.TypeFIFO:
		return "fifo"
	case meta.TypeSocket:
		return "socket"
	case meta.TypeChar:
		return "char"
	case meta.TypeBlock:
		return "block"
	}
	return "file"
}
