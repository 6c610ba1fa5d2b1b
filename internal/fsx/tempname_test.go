package fsx

import "testing"

func TestTempName(t *testing.T) {
	for range 100 {
		if name := TempName(); !IsTempName(name) {
			t.Errorf("%q", name)
		}
	}
	for _, name := range []string{"", ".kedge-", ".kedge-1234567", ".kedge-123456789", ".kedge-1234567G", ".kedge-ABCDEF01", "x.kedge-12345678"} {
		if IsTempName(name) {
			t.Errorf("%q looks like a temporary name", name)
		}
	}
}
