package s3sync

import (
	"context"
	_ "embed" // RESTORE.txt
)

// RestoreText says how to get the data back with stock tools. It stands in the bucket beside
// what it speaks of, where somebody finds it who has nothing else; a test does what it says.
//
//go:embed RESTORE.txt
var RestoreText string

// SealedRestoreText is that of a mirror that is encrypted, which is not encrypted itself.
//
//go:embed RESTORE-age.txt
var SealedRestoreText string

// nameRestoreText is its name. A text that another version of kedge sends has a key of its
// own, as any file that changes.
const nameRestoreText = "RESTORE.txt"

// sendRestoreText adds the text. The manifest names it, so that a prune leaves it alone.
func (m *mirror) sendRestoreText(ctx context.Context) error {
	text := RestoreText
	if m.names != nil {
		text = SealedRestoreText
	}
	return m.sendText(ctx, nameRestoreText, nameRestoreText, []byte(text))
}
