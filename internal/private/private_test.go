package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, FileMode); err != nil {
		t.Fatal(err)
	}
	other := errors.New("something else")
	for _, test := range []struct {
		name string
		err  error
		want string // "" = nothing is added
	}{
		{"none", nil, ""},
		{"of something else", other, ""},
		{"of a file, of which there is nothing to say", &fs.PathError{Op: "open", Path: file, Err: fs.ErrNotExist}, ""},
		{"read-only", &fs.PathError{Op: "open", Path: file, Err: syscall.EROFS}, "the file system of " + file + " is mounted read-only"},
		{"a file above", &fs.PathError{Op: "mkdir", Path: filepath.Join(file, "a", "b"), Err: syscall.ENOTDIR}, file + " is a file: move it away"},
		{"a directory", &fs.PathError{Op: "open", Path: dir, Err: syscall.EISDIR}, "move the directory " + dir + " away"},
		{"a denied file", &fs.PathError{Op: "open", Path: file, Err: syscall.EACCES}, "read and write the file " + file},
		{"a denied directory", &fs.PathError{Op: "open", Path: dir, Err: syscall.EACCES}, "read, write and enter the directory " + dir},
		{"a denied new file", &fs.PathError{Op: "open", Path: filepath.Join(dir, "new"), Err: syscall.EACCES}, "write to the directory " + dir},
		{"a wrapped one", fmt.Errorf("trying: %w", &fs.PathError{Op: "open", Path: file, Err: syscall.EPERM}), "read and write the file " + file},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Explain(test.err)
			if test.want == "" {
				if got != test.err {
					t.Errorf("%v became %v", test.err, got)
				}
				return
			}
			if !errors.Is(got, test.err) || !strings.Contains(got.Error(), test.want) {
				t.Errorf("%v, which does not say %q", got, test.want)
			}
		})
	}
}

func TestMkdirAllSaysWhatIsInTheWay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, FileMode); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "a", "b")} {
		if err := MkdirAll(path); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("MkdirAll(%s): %v, want ENOTDIR", path, err)
		}
	}
}

func TestCreateKeepsWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if isLoose := runtime.GOOS != "windows"; Loose(path) != isLoose {
		t.Errorf("Loose is %v", !isLoose)
	}
	if err := Create(path); err != nil || Loose(path) {
		t.Errorf("%v, loose %v", err, Loose(path))
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "content" {
		t.Errorf("content %q, %v", content, err)
	}
	if Loose(filepath.Join(t.TempDir(), "none")) {
		t.Error("a file that is not there is loose")
	}
}
