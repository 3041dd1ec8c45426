# The C library, for those who link it without Python: `make lib`, `make install PREFIX=/usr DESTDIR=...`, `make uninstall`.
# Another compiler, or one for another processor: `make lib LIB=build/aarch64 CROSS=aarch64-linux-gnu-`.

LIB := build
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
CROSS :=
LIB_CC := $(CROSS)$(if $(CROSS),gcc,$(CC))
LIB_CFLAGS ?= -O3 -Wall -Wextra
OBJCOPY := $(CROSS)objcopy
HEADER := csrc/include/lzpenalty.h
LIB_VERSION := $(shell sed -n 's/^.define LZPENALTY_VERSION_[MP][A-Z]* //p' $(HEADER) | paste -sd.)
# Before 1.0 a minor version may change the interface.
SONAME := liblzpenalty.so.$(basename $(LIB_VERSION))
LIB_SOURCES := $(wildcard csrc/cpu/*.c csrc/lz/*.c csrc/cache/*.c csrc/text/*.c csrc/api/*.c)
LIB_OBJECTS := $(LIB_SOURCES:%.c=$(LIB)/%.o)

.PHONY: lib install uninstall
lib: $(LIB)/liblzpenalty.a $(LIB)/liblzpenalty.so $(LIB)/lzpenalty.pc $(LIB)/lzpenalty-shared.pc

# Not c11, in which GCC computes float as double on s390x. No contraction: all levels round alike.
$(LIB)/%.o: %.c $(wildcard csrc/*/*.h) lib.mk
	@mkdir -p $(@D)
	$(LIB_CC) -std=gnu11 $(LIB_CFLAGS) -ffp-contract=off -fvisibility=hidden -fPIC -pthread -c $< -o $@

# One object, in which the names of the kernels are nobody else's.
$(LIB)/lzpenalty.o: $(LIB_OBJECTS)
	$(LIB_CC) $(LIB_LDFLAGS) -r -nostdlib $^ -o $@
	$(OBJCOPY) --localize-hidden $@

$(LIB)/liblzpenalty.a: $(LIB)/lzpenalty.o
	rm -f $@
	$(CROSS)ar rcs $@ $<

$(LIB)/$(SONAME): $(LIB)/lzpenalty.o
	$(LIB_CC) $(LIB_LDFLAGS) -shared -pthread -Wl,-soname,$(SONAME),-z,defs,-z,relro,-z,now $< -lm -o $@

$(LIB)/liblzpenalty.so: $(LIB)/$(SONAME)
	ln -sf $(SONAME) $@

# Always anew: PREFIX may be another.
.PHONY: $(LIB)/lzpenalty.pc $(LIB)/lzpenalty-shared.pc
PC_HEAD = 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$(INCLUDEDIR)' '' 'Name: $(basename $(@F))' \
    'Description: Ends the loops of reasoning language models: the LZ penalty and more' 'Version: $(LIB_VERSION)'

# With --static the archive comes before the shared library, which then is not needed: the linker would take the latter, as both
# are there.
$(LIB)/lzpenalty.pc:
	@mkdir -p $(@D)
	@printf '%s\n' $(PC_HEAD) 'Requires: lzpenalty-shared' 'Libs: -L$${libdir}' \
	    'Libs.private: $${libdir}/liblzpenalty.a -pthread -lm' 'Cflags: -I$${includedir}' > $@

$(LIB)/lzpenalty-shared.pc:
	@mkdir -p $(@D)
	@printf '%s\n' $(PC_HEAD) 'Libs: -L$${libdir} -Wl,--as-needed -llzpenalty -Wl,--no-as-needed' > $@

install: lib
	install -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 $(HEADER) $(DESTDIR)$(INCLUDEDIR)
	install -m 644 $(LIB)/liblzpenalty.a $(DESTDIR)$(LIBDIR)
	install -m 755 $(LIB)/$(SONAME) $(DESTDIR)$(LIBDIR)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/liblzpenalty.so
	install -m 644 $(LIB)/lzpenalty.pc $(LIB)/lzpenalty-shared.pc $(DESTDIR)$(LIBDIR)/pkgconfig

uninstall:
	rm -f $(DESTDIR)$(INCLUDEDIR)/lzpenalty.h $(DESTDIR)$(LIBDIR)/liblzpenalty.a $(DESTDIR)$(LIBDIR)/liblzpenalty.so \
	    $(DESTDIR)$(LIBDIR)/$(SONAME) $(DESTDIR)$(LIBDIR)/pkgconfig/lzpenalty.pc \
	    $(DESTDIR)$(LIBDIR)/pkgconfig/lzpenalty-shared.pc
