function [data, manifest] = read_wichan(folder, split, names)
% READ_WICHAN  Read a data set folder of wichan into MATLAB.
%
%   data = read_wichan(folder)                        every sample and column
%   data = read_wichan(folder, 'test')                one split ('' means all)
%   data = read_wichan(folder, 'test', {'h', 'no'})   some columns
%   [data, manifest] = read_wichan(...)               also what manifest.json says
%
%   data is a struct with one field a column. The first axis counts samples, and the others stand in the order that the
%   manifest names (manifest.columns(k).axes), as in Python: data.h(n, rx, tx, symbol, subcarrier). Complex columns are
%   complex, a category column is a cell array of texts, and data.split and data.cell tell where each sample belongs.
%
%   Needs jsondecode and h5read: MATLAB R2016b or newer, or GNU Octave 7 with a package that brings h5read.

  if nargin < 2, split = ''; end
  if nargin < 3, names = {}; end
  if ischar(names), names = {names}; end
  manifest = jsondecode(fileread(fullfile(folder, 'manifest.json')));
  if ~strcmp(manifest.format, 'wichan-dataset') || manifest.format_version > 1
    error('wichan:format', '%s is no wichan data set of format 1', folder);
  end
  columns = manifest.columns;
  if ~isempty(names)
    unknown = setdiff(names, {columns.name});
    if ~isempty(unknown)
      error('wichan:column', 'no column ''%s'' in %s', unknown{1}, folder);
    end
    columns = columns(ismember({columns.name}, names));
  end
  shards = manifest.shards;
  if ~isempty(split)
    shards = shards(strcmp({shards.split}, split));
  end
  if isempty(shards)
    error('wichan:split', 'no samples of split ''%s'' in %s', split, folder);
  end

  data = struct();
  for c = 1:numel(columns)
    parts = cell(1, numel(shards));
    for s = 1:numel(shards)
      values = h5read(fullfile(folder, shards(s).name), ['/' columns(c).name]);
      parts{s} = one_column(values, columns(c));
    end
    data.(columns(c).name) = cat(1, parts{:});
  end
  data.split = place(shards, 'split');
  data.cell = place(shards, 'cell');
end

function values = one_column(values, column)
% Bring what h5read returns into the order and type that the manifest names.
  if isstruct(values)                     % complex numbers are stored as a compound of r and i
    values = complex(values.r, values.i);
  elseif strcmp(column.dtype, 'category') && ~iscell(values)
    values = reshape(column.categories(double(values) + 1), size(values));   % codes count from 0
  elseif strcmp(column.dtype, 'bool')     % stored as an enum of FALSE and TRUE
    if iscell(values), values = strcmp(values, 'TRUE'); else, values = values ~= 0; end
  end
  axes_stored = numel(column.shape) + 1;  % the sample axis and the column's own
  if axes_stored > 1
    values = permute(values, axes_stored:-1:1);   % HDF5 counts the last axis fastest, MATLAB the first
  else
    values = values(:);
  end
end

function labels = place(shards, key)
% One text a sample: its split or its cell.
  labels = {};
  for s = 1:numel(shards)
    labels = [labels; repmat({shards(s).(key)}, shards(s).count, 1)]; %#ok<AGROW>
  end
end
