// Command figures prints how large and how tangled the code is: `go run ./.ci/figures`.
// It reads the tree as text, without types: an arrow from a file to another is a name that
// is declared there, where one file of the package alone declares it.
package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	longFunction = 60
	largest      = 10 // packages that are listed
)

// words are those that nobody outside the project would know, and what stood for them.
var words = regexp.MustCompile(`(?i)\b(purses?|anew|owed|riders?|lanes?|soil|stranger|gathering|rolls?|rouse|tame|goLocal|goBack|standings?|moneyLine|visitors|undeclared|lateState|metHere|untold)\b|tells? whether`)

// folder is a package: its files that are no tests.
type folder struct {
	path  string
	names []string
	files map[string]*ast.File
	lines int
}

func main() {
	log.SetFlags(0)
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	fset := token.NewFileSet()
	folders := map[string]*folder{}
	var wordLines, totalLines, totalFiles int
	var long []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if words.MatchString(line) {
				wordLines++
			}
		}
		if isTest(path) {
			return nil
		}
		file, err := parser.ParseFile(fset, path, text, 0)
		if err != nil {
			return err
		}
		dir := filepath.Dir(path)
		if folders[dir] == nil {
			folders[dir] = &folder{path: dir, files: map[string]*ast.File{}}
		}
		f := folders[dir]
		f.names = append(f.names, name)
		f.files[name] = file
		f.lines += strings.Count(string(text), "\n")
		totalLines += strings.Count(string(text), "\n")
		totalFiles++
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > longFunction {
				long = append(long, fmt.Sprintf("%s:%s (%d)", path, fn.Name.Name, n))
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	all := slices.SortedFunc(maps.Values(folders), func(a, b *folder) int { return cmp.Compare(b.lines, a.lines) })
	fmt.Printf("%d files of %d lines in %d packages, without tests\n\n", totalFiles, totalLines, len(all))
	fmt.Println("files  lines  arrows  back  package")
	for _, f := range all[:min(largest, len(all))] {
		arrows, back := f.arrows()
		fmt.Printf("%5d  %5d  %6d  %4d  %s\n", len(f.names), f.lines, arrows, back, f.path)
	}
	fmt.Printf("\nfunctions over %d lines: %d\n  %s\n", longFunction, len(long), strings.Join(long, "\n  "))
	for _, f := range all {
		if n := f.answersTo("exchange"); n > 0 && strings.Contains(f.path, "caddymodule") {
			fmt.Printf("fields and methods that answer to the request's object in %s: %d\n", f.path, n)
			fmt.Printf("files that make a client's error: %s\n", strings.Join(f.mentions(`apiError`), " "))
			fmt.Printf("places that settle: %d\n", f.calls(regexp.MustCompile(`^settle(Whole|Rest|Under|Last|Nothing|Broken|Large|Along)?$`)))
		}
	}
	fmt.Printf("lines with a private word, tests included: %d\n", wordLines)
}

// isTest reports whether a file is a test, or there for tests.
func isTest(path string) bool {
	return strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test"+string(filepath.Separator)) ||
		strings.Contains(path, "simulator"+string(filepath.Separator))
}

// arrows counts the pairs of files of which one names what the other declares, and those
// of them that go back up in the order in which the fewest do, as far as a greedy look
// finds it.
func (f *folder) arrows() (count, back int) {
	home := map[string]string{} // of a name, "" if several files declare it
	declare := func(name, file string) {
		if at, ok := home[name]; ok && at != file {
			file = ""
		}
		home[name] = file
	}
	for name, file := range f.files {
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.Name != "init" {
					declare(d.Name.Name, name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						declare(s.Name.Name, name)
					case *ast.ValueSpec:
						for _, id := range s.Names {
							declare(id.Name, name)
						}
					}
				}
			}
		}
	}
	to := map[string]map[string]bool{}
	for name, file := range f.files {
		to[name] = map[string]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				if at := home[id.Name]; at != "" && at != name {
					to[name][at] = true
				}
			}
			return true
		})
	}
	for _, targets := range to {
		count += len(targets)
	}
	// The next file is the one with the most arrows out beyond those in, of those left.
	left := slices.Sorted(maps.Keys(to))
	for len(left) > 0 {
		best, most := 0, -1<<30
		for i, name := range left {
			n := 0
			for _, other := range left {
				if to[name][other] {
					n++
				}
				if to[other][name] {
					n--
				}
			}
			if n > most {
				best, most = i, n
			}
		}
		for _, other := range left {
			if other != left[best] && to[other][left[best]] {
				back++
			}
		}
		left = slices.Delete(left, best, best+1)
	}
	return count, back
}

// answersTo counts a type's fields and methods, and those of what it embeds.
func (f *folder) answersTo(name string) (n int) {
	for _, file := range f.files {
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && receiver(d) == name {
					n++
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					s, ok := spec.(*ast.TypeSpec)
					if !ok || s.Name.Name != name {
						continue
					}
					if fields, ok := s.Type.(*ast.StructType); ok {
						for _, field := range fields.Fields.List {
							n += max(1, len(field.Names))
							if len(field.Names) == 0 {
								n += f.answersTo(typeName(field.Type))
							}
						}
					}
				}
			}
		}
	}
	return n
}

func receiver(d *ast.FuncDecl) string { return typeName(d.Recv.List[0].Type) }

func typeName(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// mentions are the files with a composite literal of a type.
func (f *folder) mentions(name string) (files []string) {
	for file, tree := range f.files {
		found := false
		ast.Inspect(tree, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok && lit.Type != nil && typeName(lit.Type) == name {
				found = true
			}
			return !found
		})
		if found {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

// calls counts the calls of methods whose names match.
func (f *folder) calls(names *regexp.Regexp) (n int) {
	for _, tree := range f.files {
		ast.Inspect(tree, func(node ast.Node) bool {
			if call, ok := node.(*ast.CallExpr); ok {
				if s, ok := call.Fun.(*ast.SelectorExpr); ok && names.MatchString(s.Sel.Name) {
					n++
				}
			}
			return true
		})
	}
	return n
}
